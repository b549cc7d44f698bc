"""Rate-limited warnings about a repeated operation that keeps failing."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

from imageflow.errors import ImageflowError

LOG = logging.getLogger(__name__)
QUIET = 30.0  # seconds between two warnings about the same thing


class Complaints:
    """Keeps a thread going while the database is away or an operation fails, with a warning now and then."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, float]] = {}  # what can't be done -> (why, when it was logged)

    @contextlib.contextmanager
    def instead_of_failing(self, what: str) -> Iterator[None]:
        """Log an error raised in the block and continue after it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - that is its purpose
            self.add(what, error)

    def add(self, what: str, error: Exception) -> None:
        """Log an error, the same one only every `QUIET` seconds; a bug with its traceback."""
        why, now = f"{type(error).__name__}: {error}", time.monotonic()
        before, when = self._said.get(what, ("", 0.0))
        if why == before and now - when < QUIET:
            return
        self._said[what] = (why, now)
        if isinstance(error, ImageflowError):
            LOG.warning("can't %s now: %s", what, error)
        else:
            LOG.error("can't %s", what, exc_info=error)
