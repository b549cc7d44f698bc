"""Turn external changes into events of the inbox; one module per listener, loaded by entry point.

`imageflow serve` runs each configured listener in its own thread, and restarts it, after a growing
pause, when `run` raises. A listener keeps nothing in memory that it could not lose: it may be
killed at any instruction, and another process on the same database may run the same listener.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from imageflow.background.flag import Flag
from imageflow.config import Config
from imageflow.model import Event, Receipt, Trigger

if TYPE_CHECKING:
    from imageflow.service import Service


class Inbox(Protocol):
    """Where events are kept; every method returns after the commit, and raises DatabaseUnavailable without one."""

    def receive(self, events: Sequence[Event], *, listener: str, proof: str | None = None) -> list[Receipt]:
        """Store events durably; only then may their sender get its acknowledgement.

        One that is already stored is counted, not stored: its receipt is not `new`. `proof`: SHA-256, hex, of a
        signature that holds no time and covers the whole message: events with one that came before, under another
        id, move no pin unless they follow on what is known. It outlives the event.
        Raises BadInput for an invalid event (no source, id or type; or with our own source); then none is stored.
        """

    def quarantine(self, listener: str, source: str, raw: bytes, reason: str) -> Receipt:
        """Keep unreadable bytes, with the reason; the same bytes again are the same event. They must hold no secrets."""

    def refuse(self, endpoint: str, reason: str) -> None:
        """Count a refused request; nothing of it is kept. Never blocks, never raises."""

    def ready(self) -> None:
        """Raise the error with which `receive` would fail now: DatabaseUnavailable, NoSpace, ConfigError."""


class Watched(Protocol):
    """What pollers look at, and what they saw last."""

    def triggers(self, kind: str) -> list[Trigger]:
        """The triggers of this kind (schedule, git, watch) in the currently registered recipes."""

    def canonical(self, image: str) -> dict[str, Any] | None:
        """The canonical recipe of a registered image; None when it is no longer registered."""

    def folder(self, image: str) -> str:
        """The folder that its local inputs are relative to."""

    def pinned(self, image: str) -> dict[str, str]:
        """The pins of the image's newest successful build; {} without one."""

    def seen(self, name: str) -> tuple[str, float] | None:
        """The last seen value of this name, and when; None the first time."""

    def see(self, name: str, value: str) -> None:
        """Remember the value. Call it after receiving the event about it: if killed in between, the event comes twice and counts once."""

    def see_all(self, values: Mapping[str, str]) -> None:
        """Remember many values, by name, in one transaction."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a listener is given."""

    config: Config
    inbox: Inbox
    watched: Watched
    ready: Callable[[str], None] = lambda _what: None  # report what it listens to, once it does: for logs and tests
    service: Service | None = None  # what the listener http is an API of


class Listener(Protocol):
    """One source of events. The class is the entry point's value, called with its surroundings."""

    def run(self, stop: Flag) -> None:
        """Listen until `stop` is set. Unavailable: restart it later. ConfigError: it can't work as configured."""
