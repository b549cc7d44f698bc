"""The stages that a machine's disk goes through, each with the key of its layer: pure.

A stage's key is a SHA-256 over the key of the stage before and everything that this stage adds, so
that a changed line of `configure` leaves the stages before it as they are. `_FORMAT` is part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from imageflow.model import Json
from imageflow.recipe import ImageRecipe, inputs

_FORMAT = 1
_TITLE = 60  # characters
_OWN = ("timeout", "checkpoint")  # keys of a configure entry that say nothing about the disk


@dataclass(frozen=True, slots=True)
class Stage:
    """One state of the disk."""

    name: str  # of the step that makes it
    title: str
    key: str  # of its layer, 64 hex digits
    timeout: float | None = None  # seconds, where the recipe says


def stages(canonical: Json, pins: Json, login: str | None = None) -> tuple[Stage, ...]:
    """The base or the installed system first, then one for each entry of `configure`; () for a static image.

    `login`: the SSH key that an installed system lets in; without it, its stages only tell what has changed.
    """
    if canonical["method"] == "dib":
        return ()
    return tuple(_stages(canonical, pins, login))


def installed(key: str, login: str) -> str:
    """The key of the layer of an installed system that lets in this SSH key: without the key it is of no use to anybody."""
    return _key(key, {"login": login})


def configure_steps(canonical: Json) -> list[tuple[str, str]]:
    """(name, title) of the step for each entry of `configure`; the names are stored contracts."""
    return [
        (f"configure-{number:02}-{kind_of(step)}", title_of(step))
        for number, step in enumerate(canonical.get("configure", ()), 1)
    ]


def limits(canonical: Json) -> dict[str, float]:
    """Seconds that the step for an entry of `configure` may take, by its name, where the recipe says."""
    named = zip(configure_steps(canonical), canonical.get("configure", ()), strict=False)
    return {name: float(step["timeout"]) for (name, _title), step in named if step.get("timeout")}


def kind_of(step: Json) -> str:
    """The provisioner that an entry of `configure` names."""
    return next(key for key in step if key not in _OWN)


def title_of(step: Json) -> str:
    """What an operator reads: 'packages nginx, curl'."""
    kind = kind_of(step)
    words = ", ".join(_words(step[kind]))
    text = " ".join(f"{kind} {words}".split())
    return text if len(text) <= _TITLE else text[: _TITLE - 1] + "…"


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)
    elif isinstance(value, Mapping):
        names = ("name", "path", "run", "source", "playbook", "manifest", "states", "run_list", "enable", "disable")
        for key in names:
            if value.get(key):
                yield from _words(value[key])
                if key not in ("enable",):
                    break


def _stages(canonical: Json, pins: Json, login: str | None) -> Iterator[Stage]:
    machine = canonical["machine"]
    first: dict[str, Any]
    if canonical["method"] == "boot":
        name, title = "fetch-base", "the base"
        first = {"base": next(pin for pin_name, pin in pins.items() if pin_name.startswith("base:"))}
    else:
        name, title = "await-installed", "the installed system"
        kind, file = ImageRecipe.from_json(canonical).answers
        first = {
            "iso": next(pin for pin_name, pin in pins.items() if pin_name.partition(":")[0] == "iso"),
            "answers": pins[f"file:{file}"],
            "kind": kind,
            "arguments": canonical["answers"].get("arguments"),
            "disk": machine["disk"],
            "firmware": machine["firmware"],
        }
    key = _key(None, first)
    if login is not None:
        key = installed(key, login)
    yield Stage(name, title, key)
    around = {"user": machine["user"]}
    if canonical["method"] == "boot":
        around |= {"disk": machine["disk"], "firmware": machine["firmware"]}
    for (name, title), step in zip(configure_steps(canonical), canonical["configure"], strict=True):
        does = {kind: value for kind, value in step.items() if kind not in _OWN}
        key = _key(key, {"does": does, "files": files_of(step, pins), **around})
        around = {}
        yield Stage(name, title, key, step.get("timeout"))


def files_of(step: Json, pins: Json) -> dict[str, str]:
    """The pins of the local files that an entry uses; those in its folders, too."""
    found: dict[str, str] = {}
    for named in inputs.of_step(step):
        own, below = f"file:{named.name}", f"file:{named.name.rstrip('/')}/"
        found |= {name: pin for name, pin in pins.items() if name == own or name.startswith(below)}
    return found


def _key(parent: str | None, adds: Mapping[str, Any]) -> str:
    data = {"format": _FORMAT, "parent": parent, "adds": adds}
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
