"""What is known for a while: bounded, for many threads."""

from __future__ import annotations

import threading
import time as clock
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """Values by key, each until its time; of too many, those that were set first are forgotten first.

    `get` and `set` are what keystonemiddleware asks of a cache.
    """

    def __init__(self, size: int = 4096) -> None:
        self._rows: OrderedDict[str, tuple[float, T]] = OrderedDict()
        self._size, self._lock = size, threading.Lock()

    def get(self, key: str) -> T | None:
        """The value; None when there is none, or none any more."""
        with self._lock:
            until, value = self._rows.get(key, (0.0, None))
            return value if until > clock.monotonic() else None

    def set(self, key: str, value: T, time: float = 0.0) -> None:
        """Remember a value for `time` seconds."""
        with self._lock:
            self._rows[key] = (clock.monotonic() + time, value)
            self._rows.move_to_end(key)
            while len(self._rows) > self._size:
                self._rows.popitem(last=False)

    def forget(self, key: str) -> None:
        """Forget it, if it is known."""
        with self._lock:
            self._rows.pop(key, None)
