"""The stages of a machine's disk, each with the key of its layer: pure.

A stage's key is a SHA-256 over the previous stage's key and everything that this stage adds, so that a
changed line of `configure` does not affect the stages before it. `_FORMAT` is part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from imageflow.inputs.pins import Kind, Pins, pin_name
from imageflow.model import Json
from imageflow.recipe import ImageRecipe, inputs

_FORMAT = 1
_TITLE = 60  # characters
_OWN = ("timeout", "checkpoint")  # keys of a configure entry that do not affect the disk


@dataclass(frozen=True, slots=True)
class Stage:
    """One state of the disk."""

    name: str  # of the step that produces it
    title: str
    key: str  # of its layer, 64 hex digits
    timeout: float | None = None  # seconds, if set in the recipe


def stages(canonical: Json, pins: Json, login: str | None = None) -> tuple[Stage, ...]:
    """The base or the installed system, then one stage for each entry of `configure`; () for a static image.

    `login`: the SSH key that an installed system accepts; without it, its stages only tell what has changed.
    """
    if ImageRecipe.from_json(canonical).method == "dib":
        return ()
    return tuple(_stages(canonical, pins, login))


def installed(key: str, login: str) -> str:
    """The layer key of an installed system that accepts this SSH key: without that key the layer is useless."""
    return _key(key, {"login": login})


def configure_steps(canonical: Json) -> list[tuple[str, str]]:
    """(name, title) of the step for each entry of `configure`; the names are a stored contract."""
    return [
        (f"configure-{number:02}-{kind_of(step)}", title_of(step))
        for number, step in enumerate(ImageRecipe.from_json(canonical).configure, 1)
    ]


def limits(canonical: Json) -> dict[str, float]:
    """Time limits in seconds of the steps for entries of `configure`, by step name, if set in the recipe."""
    named = zip(configure_steps(canonical), ImageRecipe.from_json(canonical).configure, strict=True)
    return {name: float(step["timeout"]) for (name, _title), step in named if step.get("timeout")}


def kind_of(step: Json) -> str:
    """The provisioner of an entry of `configure`."""
    return next(key for key in step if key not in _OWN)


def title_of(step: Json) -> str:
    """Shown to operators: 'packages nginx, curl'."""
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
    image = ImageRecipe.from_json(canonical)
    machine = image.machine
    first: dict[str, Any]
    if image.method == "boot":
        name, title = "fetch-base", "the base"
        first = {"base": Pins(pins).made_from(Kind.BASE)[1]}
    else:
        name, title = "await-installed", "the installed system"
        answers = image.answers
        first = {
            "iso": Pins(pins).made_from(Kind.ISO)[1],
            "answers": pins[pin_name(Kind.FILE, answers.name)],
            "kind": answers.kind,
            "arguments": answers.arguments,
            "disk": machine.disk,
            "firmware": machine.firmware,
        }
    key = _key(None, first)
    if login is not None:
        key = installed(key, login)
    yield Stage(name, title, key)
    around: dict[str, Any] = {"user": machine.user}
    if image.method == "boot":
        around |= {"disk": machine.disk, "firmware": machine.firmware}
    for (name, title), step in zip(configure_steps(canonical), image.configure, strict=True):
        does = {kind: value for kind, value in step.items() if kind not in _OWN}
        key = _key(key, {"does": does, "files": files_of(step, pins), **around})
        around = {}
        yield Stage(name, title, key, step.get("timeout"))


def files_of(step: Json, pins: Json) -> dict[str, str]:
    """The pins of the local files that an entry uses, including those in its folders."""
    pinned = Pins(pins)
    found: dict[str, str] = {}
    for named in inputs.of_step(step):
        if (own := pinned.file(named.name)) is not None:
            found[named.name] = own
        found |= pinned.files_below(named.name)
    return {pin_name(Kind.FILE, file): digest for file, digest in found.items()}


def _key(parent: str | None, adds: Mapping[str, Any]) -> str:
    data = {"format": _FORMAT, "parent": parent, "adds": adds}
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
