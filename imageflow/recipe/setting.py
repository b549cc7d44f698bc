"""`--set KEY.PATH=VALUE`: replaces one value of an image before the image is checked."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from imageflow.errors import RecipeError
from imageflow.recipe import plain_secrets, source
from imageflow.recipe.nodes import Node
from imageflow.recipe.problems import short

_INDEX = re.compile(r"\[(\d{1,6})\]")
_REFERENCE = re.compile(r"\{\s*secret\s*:[^{}]*\}")
_TEXTS = ("environment", "properties")  # mappings of free names to text


def apply(image: Node, key: str, text: str) -> Node:
    """The image with the value at the dotted path `key` replaced; nodes shared by aliases are not modified.

    The value is read as YAML, under `environment` and `properties` as text. A missing key is added to its
    mapping; the check of the whole image tells whether it is valid. Raises RecipeError.
    """
    origin = f"--set {short(key)}"
    parts = _INDEX.sub(r".\1", key).split(".")
    if not all(parts):
        raise RecipeError(f"{origin}: is not a path of keys", hint="such as dib.environment.DIB_RELEASE=trixie")
    mapping = next((name for name in _TEXTS if name in parts[:-1]), None)
    if mapping is None or (mapping == "environment" and _REFERENCE.fullmatch(text.strip())):
        return _replaced(image, parts, _value(text, origin), origin)
    at = parts.index(mapping) + 1
    parts = [*parts[:at], ".".join(parts[at:])]  # its keys may contain dots
    if mapping == "environment" and plain_secrets.is_secret(parts[-1], text):
        raise RecipeError(
            f"{origin}: is secret, and a setting is stored with the build",
            hint="write {secret: NAME} in the recipe, or the value in the recipe file",
        )
    if not all(c.isprintable() or c in "\n\t" for c in text):
        raise RecipeError(f"{origin}: the value has control characters", hint="remove them")
    return _replaced(image, parts, Node(1, 1, text, text, origin=origin), origin)


def _value(text: str, origin: str) -> Node:
    """The text as YAML."""
    if text.strip() in ("", "~", "null"):
        return Node(1, 1, None if text.strip() else "", text, origin=origin)
    try:
        node = source.parse(text.encode("utf-8", "surrogateescape"), origin)
    except RecipeError as error:
        raise RecipeError(f"{origin}: the value is not YAML", hint=error.hint or "put quotes around it") from None
    return _from(node, origin)


def _from(node: Node, origin: str) -> Node:
    """Mark the node and everything below it as given on the command line."""
    node.origin = origin
    for child in [*(node.items or []), *(node.keys or {}).values()]:
        if child.origin != origin:
            _from(child, origin)
    return node


def _replaced(node: Node, parts: list[str], value: Node, origin: str) -> Node:
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    if node.items is not None and not part.isdigit():
        return _in_last_entry(node, parts, value, origin)
    if node.items is not None:
        index = int(part)
        if index >= len(node.items):
            raise RecipeError(
                f"{origin}: there is no entry {index}", hint=f"the list has {len(node.items)}, counted from 0"
            )
        items = list(node.items)
        items[index] = _replaced(items[index], rest, value, origin)
        return dataclasses.replace(node, items=items)
    if node.keys is None:
        raise RecipeError(
            f"{origin}: there is no such path", hint=f"the value before {short(part)!r} is a single value"
        )
    child = node.keys.get(part)
    if child is None:
        child = Node(node.line, node.column, keys={}, origin=origin)
    new: dict[str, Any] = {"keys": {**node.keys, part: _replaced(child, rest, value, origin)}}
    return dataclasses.replace(node, **new, lines={**node.lines, part: node.lines.get(part, node.line)})


def _in_last_entry(node: Node, parts: list[str], value: Node, origin: str) -> Node:
    """Set it in the last of several entries, which wins; lists of earlier entries would be appended to."""
    items = node.items or []
    if not items or any(item.keys is None for item in items):
        raise RecipeError(
            f"{origin}: there is no such path", hint=f"a list's entries are counted from 0, not {short(parts[0])!r}"
        )
    return dataclasses.replace(
        node, items=[*(_without(item, parts) for item in items[:-1]), _replaced(items[-1], parts, value, origin)]
    )


def _without(node: Node, parts: list[str]) -> Node:
    if node.keys is None or parts[0] not in node.keys:
        return node
    keys = dict(node.keys)
    if len(parts) > 1:
        keys[parts[0]] = _without(keys[parts[0]], parts[1:])
    elif parts[0] != "imagename":
        del keys[parts[0]]
    return dataclasses.replace(node, keys=keys)
