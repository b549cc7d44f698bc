"""Reads hand-written YAML with our own limits, which apply before the parser's.

Parsers differ in their depth limits and errors: releases of PyYAML, libyaml and pure Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from imageflow.recipe.problems import short

MAX_NODES = 100_000  # after aliases are expanded
MAX_DEPTH = 40  # likewise

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class TooMuch(yaml.MarkedYAMLError):
    """YAML beyond our limits: the line, the reason, and the way out."""

    def __init__(self, mark: Any, message: str, hint: str) -> None:
        super().__init__(problem=message, problem_mark=mark)
        self.line: int = mark.line + 1
        self.message = message
        self.hint = hint


class TooDeep(TooMuch):
    """YAML nested deeper than `MAX_DEPTH`."""

    def __init__(self, mark: Any) -> None:
        super().__init__(mark, f"is nested deeper than {MAX_DEPTH} levels", "that deep is never needed")


def load(text: str) -> Any:
    """The plain data of one document, YAML's dates and tags included. Raises yaml.YAMLError, including `TooMuch`."""
    for _ in events(text):
        pass
    try:
        return yaml.safe_load(text)
    except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError) as error:
        raise yaml.YAMLError(f"a value can't be read: {short(error)}") from None  # such as !!int ''


def events(text: str) -> Iterator[tuple[yaml.Event, Any]]:
    """The events of the parser, each with its loader. Raises as `load` does."""
    try:
        yield from _limited(text)
    except TooMuch:
        raise
    except yaml.MarkedYAMLError as error:
        # A parser looks ahead: an error there stops it before it has reported what comes first.
        mark = error.problem_mark or error.context_mark
        for end in (mark.index, mark.index - 1) if mark else ():  # at the error, or just before it
            _refuse_deep(text[:end])
        raise


def _refuse_deep(text: str) -> None:
    try:
        for _ in _limited(text):
            pass
    except TooDeep:
        raise
    except yaml.YAMLError:
        pass  # it may be cut off anywhere


def _limited(text: str) -> Iterator[tuple[yaml.Event, Any]]:
    limits = _Limits()
    loader = _LOADER(text)
    try:
        while loader.check_event():
            event = loader.get_event()
            limits.take(event)
            yield event, loader
    finally:
        loader.dispose()


@dataclass(slots=True)
class _Collection:
    """Counts of a list or mapping, with aliases expanded."""

    anchor: str | None
    size: int = 1
    height: int = 1


class _Limits:
    """Checks the limits event by event."""

    def __init__(self) -> None:
        self._open: list[_Collection] = []
        self._anchors: dict[str, tuple[int, int]] = {}  # size, height
        self._nodes = 0

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= MAX_DEPTH:
                raise TooDeep(event.start_mark)
            self._count(1, event)
            if event.anchor:
                self._anchors.pop(event.anchor, None)
            self._open.append(_Collection(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = self._open.pop()
            self._place(ended.anchor, ended.size, ended.height)
        elif isinstance(event, yaml.ScalarEvent):
            self._count(1, event)
            self._place(event.anchor, 1, 0)
        elif isinstance(event, yaml.AliasEvent):
            size, height = self._target(event)
            self._count(size, event)
            if len(self._open) + height > MAX_DEPTH:
                raise TooDeep(event.start_mark)
            self._place(None, size, height)

    def _target(self, event: Any) -> tuple[int, int]:
        name = short(event.anchor)
        if event.anchor in self._anchors:
            return self._anchors[event.anchor]
        if any(one.anchor == event.anchor for one in self._open):
            raise TooMuch(event.start_mark, f"*{name} refers to itself", "an alias can't contain itself")
        raise TooMuch(event.start_mark, f"*{name} refers to nothing", f"define &{name} before it")

    def _count(self, size: int, event: Any) -> None:
        self._nodes += size
        if self._nodes > MAX_NODES:
            raise TooMuch(event.start_mark, f"expands to more than {MAX_NODES:,} values", "use fewer aliases")

    def _place(self, anchor: str | None, size: int, height: int) -> None:
        """Count a finished node."""
        if anchor:
            self._anchors[anchor] = (size, height)
        if self._open:
            self._open[-1].size += size
            self._open[-1].height = max(self._open[-1].height, height + 1)
