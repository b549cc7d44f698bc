"""Looks up a condition's FIELD in an event: all the values at that place; pure, and bounded by the event's size."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from imageflow.model import Event
from imageflow.recipe.conditions import ATTRIBUTES

DEPTH = 8  # keys on the path to a field that a probe covers
LONG = 200  # characters of the path of such a field
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DIGITS = frozenset("0123456789")
_LONGEST_NUMBER = 40  # characters of a text that may be read as a number


def attribute(event: Event, field: str) -> Any:
    """The value of `$source`, `$id`, `$type`, `$subject` or `$time`; None when it has none."""
    return getattr(event, field[1:]) if field in ATTRIBUTES else None


def at(event: Event, field: str) -> Iterator[Any]:
    """Everything at a dotted path of the data, except null: lists, mappings, and scalars.

    A list on the path, or at its end, stands for each of its items; a number in the path picks one of them.
    A key may itself contain dots.
    """
    parts = field.split(".")
    start: tuple[Any, int] = (event.data, 0)
    waiting, known = [start], {(id(event.data), 0)}
    while waiting:
        node, done = waiting.pop()
        if node is None:
            continue
        if done == len(parts):
            yield node
        found: list[tuple[Any, int]] = []
        if isinstance(node, Mapping):
            for end in range(done + 1, len(parts) + 1):
                key = ".".join(parts[done:end])
                if key in node:
                    found.append((node[key], end))
        elif isinstance(node, list | tuple):
            found += ((item, done) for item in reversed(node))
            if done < len(parts) and (index := _index(parts[done])) is not None and index < len(node):
                found.append((node[index], done + 1))
        for each in found:
            mark = (id(each[0]), each[1])
            if mark not in known or not isinstance(each[0], Mapping | list | tuple):
                known.add(mark)
                waiting.append(each)


def scalars(event: Event) -> Iterator[tuple[str, Any]]:
    """Every text, number and boolean with its dotted path, without list indices; only paths within DEPTH and LONG."""
    for name in ("$subject", "$source", "$type", "$id"):
        if (value := attribute(event, name)) is not None:
            yield name, value
    waiting: list[tuple[Any, str | None]] = [(event.data, None)]
    while waiting:
        node, path = waiting.pop()
        if isinstance(node, Mapping):
            for key, value in node.items():
                if len(key) > LONG:
                    continue
                inner = key if path is None else f"{path}.{key}"
                if len(inner) <= LONG and inner.count(".") < DEPTH:
                    waiting.append((value, inner))
        elif isinstance(node, list | tuple):
            waiting += ((item, path) for item in node)
        elif node is not None and path is not None:
            yield path, node


def by_index(field: str) -> bool:
    """Whether a part of the path could be a list index."""
    return any(_index(part) is not None for part in field.split("."))


def _index(part: str) -> int | None:
    return int(part) if part.isascii() and part.isdigit() and len(part) <= 9 else None


def number(value: Any) -> int | float | None:
    """A number, or the number that a text spells; None for anything else, and for NaN."""
    if isinstance(value, str):
        if len(value) > _LONGEST_NUMBER or value[-1:] not in _DIGITS or not (found := _NUMBER.fullmatch(value)):
            return None
        if found[1] is None and found[2] is None:
            return int(value)
        value = float(value)
        return value if abs(value) != float("inf") else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if value == value else None


def same(wanted: Any, value: Any) -> bool:
    """Whether two scalars are equal: 3 equals "3" and "3.0", true equals "true"; two texts are compared literally."""
    if isinstance(wanted, str) and isinstance(value, str):
        return wanted == value
    if isinstance(wanted, bool) or isinstance(value, bool):
        return (found := _truth(wanted)) is not None and found == _truth(value)
    one, other = number(wanted), number(value)
    return one is not None and one == other


def kind(value: Any) -> str:
    """A text that is equal for values that are the `same`."""
    if isinstance(value, str) and len(value) > _LONGEST_NUMBER:
        return f"s{value}"
    if (truth := _truth(value)) is not None:
        return f"b{truth:d}"
    found = number(value)
    if found is None:
        return f"s{value}" if isinstance(value, str) else "?"
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    return f"n{found:x}" if isinstance(found, int) else f"n{found!r}"


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= 5:
        return {"true": True, "false": False}.get(value.lower())
    return None


def text(value: Any) -> str | None:
    """A scalar as a glob or a regex sees it; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 256):
        return repr(value)
    return None
