"""What a service says when something it does again and again fails: once, then only now and then."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from imageflow.errors import ImageflowError

LOG = logging.getLogger(__name__)
QUIET = 30.0  # seconds between two complaints about the same thing


class Complaints:
    """A thread goes on when the database is away, or when one thing it does fails; it says so now and then."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, float]] = {}  # what can't be done -> (why, when that was said)

    @contextlib.contextmanager
    def instead_of_failing(self, what: str) -> Iterator[None]:
        """Log what goes wrong in the block, and go on after it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - that is its purpose
            self.add(what, error)

    def add(self, what: str, error: Exception) -> None:
        """Log an error, but the same one only every half minute; a bug with its traceback."""
        why, now = f"{type(error).__name__}: {error}", time.monotonic()
        before, when = self._said.get(what, ("", 0.0))
        if why == before and now - when < QUIET:
            return
        self._said[what] = (why, now)
        if isinstance(error, ImageflowError):
            LOG.warning("can't %s now: %s", what, error)
        else:
            LOG.error("can't %s", what, exc_info=error)
