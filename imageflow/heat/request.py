"""What is asked of imageflow for a resource, and what its answers mean; nothing of Heat in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUILD = "build"
WANTED = ("os", "packages", "pip_packages", "custom_files", "config_system", "recipe")
IMAGE = "image"
IF_MISSING, NEVER = "if-missing", "never"

_LEAST, _MOST = 1, 30  # seconds between two looks at a build


def name_of(uuid: str) -> str:
    """The name of the request of a resource: known before it is sent, so that whatever heat does twice is one request."""
    return f"heat-{uuid}"


def body(properties: Mapping[str, Any], *, stack: str, stack_id: str, resource: str) -> dict[str, Any]:
    """The request of a resource with these properties. Who uses it is for people to read: stack, its id, resource."""
    what = {IMAGE: properties[IMAGE]} if properties.get(IMAGE) else {"wanted": wanted(properties)}
    user = {"kind": "heat", "stack": stack, "stack_id": stack_id, "resource": resource}
    return {**what, BUILD: properties[BUILD], "user": user}


def wanted(properties: Mapping[str, Any]) -> dict[str, Any]:
    """What should be in the image."""
    return {key: _given(properties[key]) for key in WANTED if properties.get(key)}


def _given(value: Any) -> Any:
    """Without what the template leaves out, which heat has as None: the defaults are imageflow's."""
    if isinstance(value, Mapping):
        return {key: _given(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_given(item) for item in value]
    return value


def problem(properties: Mapping[str, Any]) -> str | None:
    """What is wrong with properties that are each right by themselves."""
    if bool(properties.get("os")) == bool(properties.get(IMAGE)):
        return "either 'os' or 'image' says what the image is: exactly one of them must be given"
    extra = [key for key in WANTED if properties.get(key)]
    if properties.get(IMAGE) and extra:
        return f"'image' is a registered image as it is: leave out {', '.join(extra)}, or ask by 'os' instead"
    if bool(properties.get("config_system")) != bool(properties.get("recipe")):
        return "'config_system' and 'recipe' go together: both or neither must be given"
    return None


def delay(waited: float) -> int:
    """Seconds until the next look at a build that has been waited for so long: it ends a tenth late at most."""
    return int(min(_MOST, max(_LEAST, waited / 10)))


@dataclass(frozen=True)
class Answer:
    """imageflow's document of a request."""

    document: Mapping[str, Any]

    @property
    def building(self) -> bool:
        """Whether there will be another state later on."""
        return bool(self.document["state"] == "building")

    @property
    def facts(self) -> dict[str, str]:
        """What is kept of an image that is there."""
        return {key: str(self.document.get(key) or "") for key in ("image_id", "digest", "build_id")}

    def failure(self, stack: str) -> str | None:
        """Why no server can boot from it, and what to do; None: it is there, or is being built."""
        state = self.document["state"]
        if state == "building":
            return None
        if state == "ready":
            if self.document.get("image_id"):
                return None
            return "the image is there, but not in Glance: Heat needs an imageflow with [store] driver = glance"
        build = None if state == "missing" else self.document.get("build_id")  # of what was there before
        said = [f"build {build} is {state}" if build else f"the image is {state}"]
        said += [str(text) for key in ("reason", "hint") if (text := self.document.get(key))]
        if state in ("paused", "failed"):
            said.append(f"Then 'openstack stack update --existing {stack}' goes on from there")
        return said[0] + ": " + ". ".join(text.rstrip(". ") for text in said[1:])
