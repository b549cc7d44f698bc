"""Formats values: short and relative for users, raw for scripts. Pure, and cheap to import.

A `Column` subclass holds the raw value; cliff's table prints `human_readable`, json, yaml, csv and
value print `machine_readable`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from cliff.columns import FormattableColumn

from imageflow.host.visible import visible
from imageflow.model import BuildState, PublicationState

MARKS = {
    "pending": "·",
    "queued": "·",
    "running": "▶",
    "succeeded": "✔",
    "failed": "✘",
    "paused": "‖",
    "reverting": "◀",
    "reverted": "↺",
    "revert-failed": "!",
    "aborted": "✘",
    "cancelled": "✘",
    "superseded": "»",
}


def duration(seconds: float | None) -> str:
    """'0.4 s', '12 s', '3:07', '1:02:11', '2 d 3 h'; '' for None."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes}:{rest:02}"
    if hours < 48:
        return f"{hours}:{minutes:02}:{rest:02}"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def ago(then: float | None, now: float | None = None) -> str:
    """'just now', '40 s ago', '5 min ago', '3 h ago', '12 d ago', else the date; '' for None."""
    if then is None:
        return ""
    seconds = (time.time() if now is None else now) - then
    if seconds < 5:
        return "just now"
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129600, 3600, "h"), (5184000, 86400, "d")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name} ago"
    return time.strftime("%Y-%m-%d", time.localtime(then))


def size(count: int | None) -> str:
    """'312 B', '4.7 KiB', '233 MiB'; '' for None."""
    if count is None:
        return ""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1000 or unit == "TiB":
            break
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def iso(seconds: float | None) -> str | None:
    """UTC, to the second: scripts can sort and parse it."""
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def short(digest: str | None) -> str:
    """A prefix of a digest or key, long enough to identify it."""
    return (digest or "")[:12]


def clip(text: str | None, length: int) -> str:
    """The first line of a text, cut to a length."""
    line = (text or "").split("\n")[0]
    return line if len(line) <= length else f"{line[: length - 1]}…"


def seen(value: Any) -> Any:
    """A cell of a table without anything that acts on a terminal."""
    if isinstance(value, FormattableColumn):
        return _Seen(value)
    return visible(value) if isinstance(value, str) else value


class _Seen(FormattableColumn[Any]):
    """Another column, with text as `visible` shows it."""

    def human_readable(self) -> str:
        lines = isinstance(self._value, LinesColumn | Pairs)
        return visible(self._value.human_readable(), lines=lines)

    def machine_readable(self) -> Any:
        value = self._value.machine_readable()
        return visible(value) if isinstance(value, str) else value


def mark(state: str) -> str:
    """One character for a state of a step or build."""
    return MARKS.get(state, "?")


class Age(FormattableColumn[Any]):
    """A time: its age; ISO 8601 in UTC for scripts."""

    def human_readable(self) -> str:
        return ago(self._value)

    def machine_readable(self) -> str | None:
        return iso(self._value)


class Took(FormattableColumn[Any]):
    """Seconds."""

    def human_readable(self) -> str:
        return duration(self._value)

    def machine_readable(self) -> float | None:
        return None if self._value is None else round(self._value, 3)


class Size(FormattableColumn[Any]):
    """Bytes."""

    def human_readable(self) -> str:
        return size(self._value)


class Digest(FormattableColumn[Any]):
    """A digest or build key."""

    def human_readable(self) -> str:
        return short(self._value)


class Optional(FormattableColumn[Any]):
    """A value that may be missing: an empty field for users."""

    def human_readable(self) -> str:
        return "" if self._value is None else str(self._value)


def waits_line(state: BuildState, waits: str) -> str:
    """What a build waits for, or who is silent about it, in one line."""
    return f"waits for {waits}" if state is BuildState.QUEUED else waits


class Silent(FormattableColumn[Any]):
    """A build's state; users see that its conductor gives no sign of life."""

    def __init__(self, value: Any, silent: str | None) -> None:
        super().__init__(value)
        self._silent = silent

    def human_readable(self) -> str:
        return self._value if self._silent is None else f"{self._value} ({self._silent})"


class Clipped(FormattableColumn[Any]):
    """A sentence, clipped to keep a list readable."""

    def human_readable(self) -> str:
        return clip(self._value, 60)


class LinesColumn(FormattableColumn[Any]):
    """A structure for scripts that users read as lines of text."""

    def __init__(self, value: Any, lines: Sequence[str]) -> None:
        super().__init__(value)
        self._lines = lines

    def human_readable(self) -> str:
        return "\n".join(map(visible, self._lines))


class Published(FormattableColumn[Any]):
    """The state of a version in each target, by target name: how many have it, and the states of the others."""

    def human_readable(self) -> str:
        others = [f"{target}: {state}" for target, state in self._value.items() if state is not PublicationState.STORED]
        if not self._value:
            return ""
        stored = f"{len(self._value) - len(others)}/{len(self._value)}"
        return f"{stored} ({', '.join(others)})" if others else stored


class Pairs(FormattableColumn[Any]):
    """A mapping: one 'name: value' a line."""

    def human_readable(self) -> str:
        return "\n".join(visible(f"{name}: {value}") for name, value in (self._value or {}).items())
