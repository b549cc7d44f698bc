"""The language of `where:` conditions on events, and checks of a condition."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from imageflow.recipe.definition import Fault
from imageflow.recipe.problems import Path, did_you_mean, listed, short

ATTRIBUTES = ("$source", "$id", "$type", "$subject", "$time")  # of the event itself
OPERATORS = ("glob", "regex", "in", "ne", "lt", "le", "gt", "ge", "exists")
JOINS = ("all", "any", "not")
_DEEPEST = 8  # conditions in conditions
_MANY = 200  # fields of one condition in total
_LONG = 1000  # characters of a value, values of a list
_SCALAR = {"type": ["string", "number", "boolean"]}
_ORDERED = {"type": ["string", "number"]}

SCHEMA: dict[str, Any] = {
    "description": "Fields of the event's data by dotted path, or $source, $id, $type, $subject, $time; all are meant.",
    "type": "object",
    "properties": {
        "all": {"type": "array", "items": {"$ref": "#/$defs/Condition"}, "minItems": 1},
        "any": {"type": "array", "items": {"$ref": "#/$defs/Condition"}, "minItems": 1},
        "not": {"$ref": "#/$defs/Condition"},
    },
    "additionalProperties": {
        "anyOf": [
            _SCALAR,
            {
                "type": "object",
                "properties": {
                    "glob": {"type": "string"},
                    "regex": {"type": "string", "description": "RE2's syntax, over the whole value."},
                    "in": {"type": "array", "items": _SCALAR, "minItems": 1},
                    "ne": _SCALAR,
                    "exists": {"type": "boolean"},
                    **dict.fromkeys(("lt", "le", "gt", "ge"), _ORDERED),
                },
                "additionalProperties": False,
                "minProperties": 1,
            },
        ]
    },
}


def faults(where: Mapping[str, Any], path: Path) -> Iterator[Fault]:
    """All faults of a condition; `path` is the condition's."""
    yield from _Check().condition(where, path, 1)


class _Check:
    """The check of one whole condition."""

    def __init__(self) -> None:
        self._fields = 0

    def condition(self, where: Any, path: Path, depth: int) -> Iterator[Fault]:
        if not isinstance(where, Mapping):
            yield Fault(path, "", wanted="a mapping")
            return
        if depth > _DEEPEST:
            yield Fault(path, f"is nested deeper than {_DEEPEST} conditions", "write it flatter")
            return
        if not where and depth > 1:
            yield Fault(path, "is empty", "name a field, such as {repository: infra}")
        for field, wanted in where.items():
            here = (*path, field)
            if field == "not":
                yield from self.condition(wanted, here, depth + 1)
            elif field in JOINS:
                yield from self._several(wanted, here, depth + 1)
            else:
                yield from self._field(field, wanted, here)

    def _several(self, wanted: Any, path: Path, depth: int) -> Iterator[Fault]:
        if not isinstance(wanted, list):
            yield Fault(path, "", wanted="a list")
        elif not wanted:
            yield Fault(path, "is empty", "add a condition, or remove the key")
        else:
            for index, each in enumerate(wanted):
                yield from self.condition(each, (*path, index), depth)

    def _field(self, field: str, wanted: Any, path: Path) -> Iterator[Fault]:
        self._fields += 1
        if self._fields == _MANY + 1:
            yield Fault(path, f"is one field more than the {_MANY} that a condition may have", "use 'in' or 'regex'")
        if field.startswith("$") and field not in ATTRIBUTES:
            known = f"known are {listed(ATTRIBUTES)}"
            yield Fault(path, "an event has no such attribute", did_you_mean(field, ATTRIBUTES, known))
        elif not field or len(field) > 200:
            yield Fault(path, "is not a field", "a dotted path into the event's data, such as repository")
        elif not isinstance(wanted, Mapping):
            yield from _operand("", wanted, field, path)
        elif not wanted:
            yield Fault(path, "is empty", "name a value, or one of " + ", ".join(OPERATORS))
        else:
            for name, operand in wanted.items():
                yield from _operator(name, operand, field, (*path, name))


def _operator(name: str, operand: Any, field: str, path: Path) -> Iterator[Fault]:
    if name in JOINS:
        yield Fault(path, f"{name!r} comes before fields, not after one", f"{name}: {{{short(field)}: …}}")
    elif name not in OPERATORS:
        hint = "write the value itself" if name in ("eq", "equals", "is", "==") else ""
        yield Fault(path, "there is no such comparison", hint or did_you_mean(name, OPERATORS, ", ".join(OPERATORS)))
    elif name == "exists":
        if not isinstance(operand, bool):
            yield Fault(path, "", wanted="true or false")
    elif name != "in":
        yield from _operand(name, operand, field, path)
    elif not isinstance(operand, list):
        yield Fault(path, "", wanted="a list")
    elif not operand:
        yield Fault(path, "is empty", "add a value")
    elif len(operand) > _LONG:
        yield Fault(path, f"has more than {_LONG} values", "use 'glob' or 'regex'")
    else:
        for index, each in enumerate(operand):
            yield from _operand(name, each, field, (*path, index))


def _operand(name: str, operand: Any, field: str, path: Path) -> Iterator[Fault]:
    """Check one operand; `name` is "" when the value is given directly."""
    if operand is None:
        yield Fault(path, "is empty", "for a field that is not there, {exists: false}")
    elif isinstance(operand, list | Mapping):
        yield Fault(path, "is not a single value", "for one of several, {in: […]}" if isinstance(operand, list) else "")
    elif isinstance(operand, str) and len(operand) > _LONG:
        yield Fault(path, f"is longer than {_LONG} characters", "use 'glob' or 'regex' for a part of it")
    elif name in ("glob", "regex") and not isinstance(operand, str):
        yield Fault(path, "", wanted="text")
    elif name == "regex" and (problem := trouble(operand)):
        yield Fault(path, f"is not a regular expression of RE2: {problem}", "its syntax: github.com/google/re2/wiki")
    elif name in ("lt", "le", "gt", "ge") and isinstance(operand, bool):
        yield Fault(path, "true and false have no order", "compare with a number or a text")
    elif field == "$time" and name not in ("glob", "regex") and (not isinstance(operand, str) or not _moment(operand)):
        yield Fault(path, "is not a time", 'in quotes, such as "2026-01-31T12:00:00Z"')


def _moment(text: str) -> bool:
    return moment(text) is not None


@functools.lru_cache(maxsize=4096)
def moment(text: str) -> float | None:
    """Seconds since the epoch of an ISO time, UTC by default; None for anything else."""
    try:
        found = datetime.datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def trouble(pattern: str) -> str:
    """RE2's error for an expression; "" when it is valid."""
    found = _compiled(pattern)
    return found if isinstance(found, str) else ""


def compiled(pattern: str) -> Any:
    """A compiled RE2 expression, None when it is invalid."""
    found = _compiled(pattern)
    return None if isinstance(found, str) else found


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        said = error.args[0] if error.args else b""
        return short(said.decode("utf-8", "replace") if isinstance(said, bytes) else said) or "unusable"
    except UnicodeEncodeError:
        return "half of a character"
