"""Stores a broker's messages in the inbox or in quarantine, before they are acknowledged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imageflow.background.backoff import Backoff
from imageflow.background.flag import Flag
from imageflow.errors import BadInput, ImageflowError
from imageflow.listeners import Inbox
from imageflow.model import Event

LOG = logging.getLogger(__name__)
# Seconds until a broker, or the inbox, is retried: the first time, and at most.
PAUSE = (0.25, 10.0)  # brokers drop a consumer that is silent for much longer


@dataclass(frozen=True, slots=True)
class Letter:
    """One message, or a part of it that is kept as a unit."""

    source: str  # its sender, as far as known
    raw: Callable[[], bytes]  # what may be kept of it when it is unreadable: without secrets
    events: Sequence[Event] = ()
    unreadable: str | None = None  # why


class Keeper:
    """Keeps letters; while that is not possible, waits for growing pauses."""

    def __init__(self, inbox: Inbox, listener: str) -> None:
        self._inbox = inbox
        self._listener = listener
        self._backoff = Backoff(*PAUSE)

    def keep(self, letters: Sequence[Letter], stop: Flag) -> bool:
        """Whether all of them are stored durably, and may be acknowledged; otherwise they have to be redelivered."""
        if stop.is_set():
            return False
        try:
            self._keep(letters)
        except Exception as error:
            LOG.warning(
                "%s: %d messages could not be stored, and are requested again: %s",
                self._listener,
                len(letters),
                error,
                exc_info=not isinstance(error, ImageflowError),
            )
            self._backoff.wait(stop)
            return False
        self._backoff.reset()
        return True

    def _keep(self, letters: Sequence[Letter]) -> None:
        good = [letter for letter in letters if letter.unreadable is None]
        try:
            self._receive(good)
        except Exception as error:
            if isinstance(error, ImageflowError) and not isinstance(error, BadInput):
                raise
            for letter in good:  # one of them is at fault
                self._keep_alone(letter)
        for letter in letters:
            if letter.unreadable is not None:
                self._set_aside(letter, letter.unreadable)

    def _receive(self, letters: Sequence[Letter]) -> None:
        if events := [event for letter in letters for event in letter.events]:
            self._inbox.receive(events, listener=self._listener)

    def _keep_alone(self, letter: Letter) -> None:
        try:
            self._receive([letter])
        except BadInput as error:
            self._set_aside(letter, str(error))
        except ImageflowError:
            raise
        except Exception as error:
            LOG.exception("%s: a bug in imageflow, at a message", self._listener)
            self._set_aside(letter, f"unexpected: {type(error).__name__}")

    def _set_aside(self, letter: Letter, reason: str) -> None:
        self._inbox.quarantine(self._listener, letter.source, letter.raw(), reason)
