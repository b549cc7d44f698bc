"""Announcements to other systems: one module per transport, loaded by entry point, fed from the outbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from imageflow.config import Config, drivers
from imageflow.errors import ConfigError, Unavailable
from imageflow.model import Announcement


class Stumbled(Unavailable):
    """The target took the announcement and could not handle it; trying this one again may help."""


class Announcer(Protocol):
    """One transport. The class is the entry point's value: called with the configuration, it does not connect yet.

    Raises ConfigError, with the option's name, when it can't work as configured. Used by one thread.
    """

    def send(self, announcement: Announcement) -> None:
        """Returns when the target has it, as durably as the target promises.

        Raises Unavailable: the target is down, which says nothing about the announcement; Stumbled; Refused: it said
        no, and would say no again. Anything may be sent twice, with the same id.
        """

    def close(self) -> None:
        """Close connections; the next `send` reconnects."""


def load(target: str) -> Callable[[Config], Announcer]:
    """The factory of the announcer for a name in [announce] targets; raises ConfigError, also for an unknown name."""
    factory: Callable[[Config], Announcer] = drivers.load(
        "announcer", "imageflow.announcers", target, "[announce] targets"
    )
    return factory


def needed(value: str | None, option: str) -> str:
    """The value of a required option of a target."""
    if not value:
        raise ConfigError(
            f"[announce] {option} is not set", hint="set it, or take the target out of [announce] targets"
        )
    return value
