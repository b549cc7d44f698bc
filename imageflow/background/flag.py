"""A flag that a signal handler may set.

A `threading.Event` must not be set there: the handler runs in the main thread, which may hold the event's
own lock at that very moment, and would deadlock.
"""

from __future__ import annotations

import contextlib
import queue


class Flag:
    """`threading.Event` with a `set` that is safe in a signal handler."""

    def __init__(self) -> None:
        self._set = False
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put may interrupt its own get

    def set(self) -> None:
        """Set the flag and wake the waiting threads."""
        self._set = True
        self._bell.put(None)

    def clear(self) -> None:
        """Lower it."""
        self._set = False
        with contextlib.suppress(queue.Empty):
            while True:
                self._bell.get_nowait()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until the flag is set, `timeout` seconds at most; -> whether it is set."""
        if not self._set:
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=timeout)
            if self.is_set():
                self._bell.put(None)  # for the next waiting thread
        return self._set
