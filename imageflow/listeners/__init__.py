"""What turns things that happen elsewhere into events of the inbox; one module each, loaded by entry point.

`imageflow serve` runs each listener that is configured in a thread of its own, and starts it again, after a
pause that grows, when `run` raises. A listener keeps nothing in memory that it could not lose: it may be
killed at any instruction, and there may be a second one like it in another process on the same database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from imageflow.config import Config
from imageflow.model import Event, Receipt, Trigger
from imageflow.signals import Flag


class Inbox(Protocol):
    """Where events are kept; every method returns after the commit, and raises DatabaseUnavailable without one."""

    def receive(self, events: Sequence[Event], *, listener: str, proof: str | None = None) -> list[Receipt]:
        """Store events durably; only then may their sender be told so.

        One that is there already is counted, not stored: its receipt is not `new`. `proof`: SHA-256, hex, of a
        signature that holds no time and covers the whole message: raises Conflict when an event came with it before.
        Raises BadInput for an event that can't be one (no source, id or type; one of our own source); then none is stored.
        """

    def quarantine(self, listener: str, source: str, raw: bytes, reason: str) -> Receipt:
        """Keep what nobody can read, with the reason; the same bytes again are the same event. Secrets must be out of it."""

    def refuse(self, endpoint: str, reason: str) -> None:
        """Count something that was refused; nothing of it is kept. Never blocks, never raises."""


class Watched(Protocol):
    """What pollers look at, and what they saw last."""

    def triggers(self, kind: str) -> list[Trigger]:
        """The triggers of this kind (schedule, git, watch) in the recipes that are registered now."""

    def canonical(self, image: str) -> dict[str, Any] | None:
        """The canonical recipe of a registered image; None when it is not registered any more."""

    def folder(self, image: str) -> str:
        """The folder that its local inputs are relative to."""

    def pinned(self, image: str) -> dict[str, str]:
        """What the last build of the image was pinned to (its newest that succeeded); {} without one."""

    def seen(self, name: str) -> tuple[str, float] | None:
        """The value of this name as it was last seen, and when; None the first time."""

    def see(self, name: str, value: str) -> None:
        """Remember the value. Do it after the event about it is received: killed in between, the event comes twice and is one."""

    def see_all(self, values: Mapping[str, str]) -> None:
        """Remember many values, by name, in one transaction."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a listener is given."""

    config: Config
    inbox: Inbox
    watched: Watched
    ready: Callable[[str], None] = lambda _what: None  # say what it listens to, once it does: for logs and tests


class Listener(Protocol):
    """One way for events to come in. The class is the entry point's value: called with its surroundings."""

    def run(self, stop: Flag) -> None:
        """Listen until `stop` is set. Unavailable: start me again later. ConfigError: it can't work as configured."""
