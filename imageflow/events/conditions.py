"""Evaluates a trigger's condition on an event: pure, and never fails because of the event."""

from __future__ import annotations

import datetime
import fnmatch
import operator
from collections.abc import Callable, Mapping
from typing import Any

from imageflow.events import fields
from imageflow.model import Event, Json
from imageflow.recipe.conditions import compiled, moment

_DEEPEST = 50  # levels of nested conditions
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


class Broken(Exception):
    """The condition is not one that a recipe may have."""


def holds(where: Json, event: Event, depth: int = 0) -> bool:
    """Whether the whole condition holds; raises Broken for an invalid condition, never because of the event."""
    if not isinstance(where, Mapping) or depth > _DEEPEST:
        raise Broken
    return all(_holds(field, wanted, event, depth + 1) for field, wanted in where.items())


def _holds(field: str, wanted: Any, event: Event, depth: int) -> bool:
    if field == "not":
        return not holds(wanted, event, depth)
    if field in ("all", "any"):
        if not isinstance(wanted, list | tuple):
            raise Broken
        answers = (holds(each, event, depth) for each in wanted)
        return all(answers) if field == "all" else any(answers)
    if not isinstance(wanted, Mapping):
        wanted = {"": wanted}
    if field == "$time":
        return _time(wanted, event)
    if field.startswith("$"):
        value = fields.attribute(event, field)
        return _field(wanted, [] if value is None else [value])
    return _field(wanted, list(fields.at(event, field)))


def _field(wanted: Json, values: list[Any]) -> bool:
    """Whether one of the values satisfies all the operators together; `ne` and `exists` apply to all of the values."""
    values = [value for value in values if value is not None]
    operators = dict(wanted)
    if "exists" in operators and bool(operators.pop("exists")) != bool(values):
        return False
    if "ne" in operators:
        other = operators.pop("ne")
        if any(fields.same(other, value) for value in values):
            return False
    if "in" in operators:
        operators["in"] = _Among(operators["in"])
    if not operators:
        return True
    return any(all(_fulfils(name, operand, value) for name, operand in operators.items()) for value in values)


class _Among:
    """Compares many values with many."""

    def __init__(self, values: Any) -> None:
        if not isinstance(values, list | tuple):
            raise Broken
        self._values: dict[str, list[Any]] = {}
        for each in values:
            self._values.setdefault(fields.kind(each), []).append(each)

    def __contains__(self, value: object) -> bool:
        return any(fields.same(each, value) for each in self._values.get(fields.kind(value), ()))


def _fulfils(name: str, operand: Any, value: Any) -> bool:
    if name == "":
        return fields.same(operand, value)
    if name == "in":
        return value in operand
    if name in ("glob", "regex"):
        if not isinstance(operand, str):
            raise Broken
        text = fields.text(value)
        return text is not None and (glob(operand, text) if name == "glob" else regex(operand, text))
    if name in _ORDER:
        return _ordered(_ORDER[name], operand, value)
    raise Broken


def _ordered(compare: Callable[[Any, Any], bool], operand: Any, value: Any) -> bool:
    if isinstance(operand, str) and isinstance(value, str):
        return compare(value, operand)
    one, other = fields.number(value), fields.number(operand)
    return one is not None and other is not None and compare(one, other)


def _time(wanted: Json, event: Event) -> bool:
    """`$time`: its operands are ISO times; a glob or a regex matches it as 2026-01-31T12:00:00Z."""
    if event.time is None:
        return _field(wanted, [])
    texts = {name: operand for name, operand in wanted.items() if name in ("glob", "regex")}
    if texts and ((shown := iso(event.time)) is None or not _field(texts, [shown])):
        return False
    rest = {name: _moments(operand) for name, operand in wanted.items() if name not in texts}
    return _field(rest, [event.time])


def _moments(operand: Any) -> Any:
    if isinstance(operand, list | tuple):
        return [_moments(each) for each in operand]
    if not isinstance(operand, str):
        return operand
    found = moment(operand)
    if found is None:
        raise Broken
    return found


def iso(seconds: float) -> str | None:
    """A time as text, in UTC; None if out of range."""
    try:
        found = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return found.isoformat().replace("+00:00", "Z")


def glob(pattern: str, text: str) -> bool:
    """Matches as a shell does, case-sensitively, but `*` also matches `/`."""
    return fnmatch.fnmatchcase(text, pattern)


def regex(pattern: str, text: str) -> bool:
    """Whether an RE2 expression matches the whole text; the time grows only with the text."""
    found = compiled(pattern)
    if found is None:
        raise Broken
    try:
        return found.fullmatch(text) is not None
    except UnicodeEncodeError:  # half a surrogate pair
        return found.fullmatch(text.encode("utf-8", "replace").decode()) is not None
