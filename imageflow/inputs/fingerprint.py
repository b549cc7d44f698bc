"""Computes the build key and the reason for a build from pinned inputs; pure.

The key must never change by accident: it decides everywhere what is built again. `_FORMAT` is part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from imageflow.inputs.pins import Kind, PinName
from imageflow.model import Build, Json
from imageflow.recipe import plain_secrets

_FORMAT = 1
_SHORT = 60  # characters of a value that a reason quotes
_SILENT = ("password", "content", "authorized_keys")  # keys whose values a reason never quotes


def build_key(canonical: Json, pins: Json) -> str:
    """SHA-256 (64 hex digits) over what determines the image: the canonical recipe and the pins.

    Triggers, the handling of failures, time limits and the number of kept versions do not count.
    """
    data = {"format": _FORMAT, "recipe": _deciding(canonical), "pins": dict(pins)}
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def why(before: Build | None, canonical: Json, pins: Json) -> str:
    """Why this build is needed: exactly what differs from `before`, the last version's build."""
    if before is None:
        return f"first build of {canonical['name']}"
    differences = [
        *_pins(before.pins, pins),
        *_recipe(_flat(_deciding(before.recipe)), _flat(_deciding(canonical))),
    ]
    if not differences:
        return f"nothing changed since build {before.id}, but its image is no longer there or was not finished"
    return ", ".join(differences)


def same(one: Json, other: Json) -> bool:
    """Whether two canonical recipes make the same image from the same inputs."""
    return _deciding(one) == _deciding(other)


def _deciding(canonical: Json) -> dict[str, Any]:
    """The part of a recipe that determines the image."""
    recipe = {key: value for key, value in canonical.items() if key not in ("on", "on_failure", "timeout")}
    publish = recipe.get("publish")
    if isinstance(publish, Mapping):
        recipe["publish"] = {key: value for key, value in publish.items() if key != "keep"}
    kept: dict[str, Any] = placeless(recipe)
    return kept


def placeless(value: Any) -> Any:
    """The value without the paths of plain secrets: a recipe moved to another folder is the same recipe."""
    if isinstance(value, Mapping):
        name = value.get("secret")
        if isinstance(name, str) and set(value) == {"secret"} and name.startswith("recipe:"):
            return {"secret": "recipe:"}
        return {key: placeless(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [placeless(item) for item in value]
    return value


def _pins(old: Json, new: Json) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        pin = PinName.parse(name)
        kind, rest = pin.kind, pin.rest
        subject = f"{kind} {rest}" if rest else kind
        if before is None:
            yield f"{subject} added"
        elif after is None:
            yield f"{subject} removed"
        elif kind in (Kind.ELEMENT, Kind.FILE):
            yield f"{subject} changed"
        elif kind == Kind.ARCHIVE:
            yield f"{subject} moved"
        elif kind in (Kind.BASE, Kind.ISO, Kind.IMAGE, Kind.GIT):
            yield f"{subject.replace(':', ' ')} {_brief(before)} → {_brief(after)}"
        else:
            yield f"{rest or kind} {_shown(before)} → {_shown(after)}"


def _brief(pin: str) -> str:
    """The start of a digest, or of the id of an image in Glance."""
    return pin[:8] if pin[8:9] == "-" else pin[:12]


def _recipe(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for path in sorted(old.keys() | new.keys()):
        if _only_empty(path, old, new) or _only_empty(path, new, old):
            continue  # its content on the other side is named there
        if path not in new:
            yield f"{path} removed"
        elif path not in old:
            yield f"{path} added" if _silent(path, new[path]) else f"{path} added: {_shown(new[path])}"
        elif old[path] != new[path]:
            if _silent(path, old[path]) or _silent(path, new[path]):
                yield f"{path} changed"
            else:
                yield f"{path} {_shown(old[path])} → {_shown(new[path])}"


def _only_empty(path: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Whether `path` is an empty list or mapping here and a non-empty one there."""
    if here.get(path) not in ([], {}) or path in there:
        return False
    return any(other.startswith((f"{path}.", f"{path}[")) for other in there)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Every scalar by its path; a list of scalars, such as elements, is one value."""
    if isinstance(value, Mapping) and value and not _is_reference(value):
        found: dict[str, Any] = {}
        for key, item in value.items():
            found |= _flat(item, f"{path}.{key}" if path else str(key))
        return found
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list) for item in value):
        found = {}
        for index, item in enumerate(value):
            found |= _flat(item, f"{path}[{index}]")
        return found
    return {path: value}


def _is_reference(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"secret"}


def _silent(path: str, value: Any) -> bool:
    name = path.rpartition(".")[2]
    return name in _SILENT or len(_shown(value)) > _SHORT or _is_secret(name, value)


def _is_secret(name: str, value: Any) -> bool:
    if _is_reference(value):
        return False
    return plain_secrets.what(name, _shown(value)) is not None or plain_secrets.has_credentials(_shown(value))


def _shown(value: Any) -> str:
    if _is_reference(value):
        name = value["secret"]
        return "a secret" if name == "recipe:" else f"secret {name}"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    if value is None:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()) or '""'
