"""Messages of a broker, kept by the inbox or in quarantine, before they are acknowledged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imageflow.errors import BadInput, ImageflowError
from imageflow.listeners import Inbox
from imageflow.listeners.pause import Pause
from imageflow.model import Event
from imageflow.signals import Flag

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Letter:
    """One message, or the part of it that stands or falls together."""

    source: str  # who sent it, as far as that is known
    raw: Callable[[], bytes]  # what of it may be kept when it can't be read: without secrets
    events: Sequence[Event] = ()
    unreadable: str | None = None  # why


class Keeper:
    """Keeps letters; waits, longer each time, while that is not possible."""

    def __init__(self, inbox: Inbox, listener: str) -> None:
        self._inbox = inbox
        self._listener = listener
        self._pause = Pause()

    def keep(self, letters: Sequence[Letter], stop: Flag) -> bool:
        """Whether all of them are stored durably, and may be acknowledged; else they have to come again."""
        if stop.is_set():
            return False
        try:
            self._keep(letters)
        except Exception as error:
            LOG.warning(
                "%s: %d messages could not be stored, and are asked for again: %s",
                self._listener,
                len(letters),
                error,
                exc_info=not isinstance(error, ImageflowError),
            )
            self._pause.wait(stop)
            return False
        self._pause.over()
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
            LOG.exception("%s: a message that imageflow stumbles over", self._listener)
            self._set_aside(letter, f"unexpected: {type(error).__name__}")

    def _set_aside(self, letter: Letter, reason: str) -> None:
        self._inbox.quarantine(self._listener, letter.source, letter.raw(), reason)
