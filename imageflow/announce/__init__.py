"""What happened here is told to others: one module per way, loaded by entry point, fed from the outbox."""

from __future__ import annotations

from typing import Protocol

from imageflow import drivers
from imageflow.config import Config
from imageflow.errors import ConfigError, Unavailable
from imageflow.model import Announcement


class Stumbled(Unavailable):
    """The target took the announcement and could not handle it; trying this one again may help."""


class Announcer(Protocol):
    """One way out. The class is the entry point's value: called with the configuration, it connects to nothing yet.

    It raises ConfigError, with the option's name, when it can't work as configured. Used by one thread.
    """

    def send(self, announcement: Announcement) -> None:
        """Returns when the target has it, durably as far as the target promises.

        Raises Unavailable: the target is away, this says nothing about the announcement; Stumbled; Refused: it said
        no, and would say no again. Anything may come twice, with the same id.
        """

    def close(self) -> None:
        """Give connections back; the next `send` connects again."""


def load(config: Config, target: str) -> Announcer:
    """The announcer of a name in [announce] targets."""
    announcer: Announcer = drivers.load("announcer", "imageflow.announcers", target, "[announce] targets")(config)
    return announcer


def needed(value: str | None, option: str) -> str:
    """The value of an option that a target can't do without."""
    if not value:
        raise ConfigError(
            f"[announce] {option} is not set", hint="set it, or take the target out of [announce] targets"
        )
    return value
