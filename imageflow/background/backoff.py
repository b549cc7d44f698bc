"""Waits that grow with each consecutive failure and start over after a success."""

from __future__ import annotations

import random

from imageflow.background.flag import Flag

_MOST_DOUBLINGS = 64  # a number of failures may come from the database: factor ** failures must stay a float


class Backoff:
    """How long to wait before the next attempt; for use by one thread.

    It counts the failures itself (`next`, `wait`, `reset`), or the caller passes their number (`after`).
    """

    def __init__(self, first: float, most: float, *, factor: float = 2.0, jitter: float = 0.0) -> None:
        """`first` and `most`: seconds after the first failure, and at most; `factor`: growth with each further failure.

        `jitter`: 0 to 1, the largest part of a wait that is randomly cut off, so that many do not retry at once.
        """
        self._first = first
        self._most = most
        self._factor = factor
        self._jitter = jitter
        self.failures = 0  # in a row

    def after(self, failures: int) -> float:
        """Seconds to wait after `failures` (1 or more) in a row; counts nothing."""
        grown = self._first * self._factor ** min(max(failures - 1, 0), _MOST_DOUBLINGS)
        return min(self._most, grown) * random.uniform(1.0 - self._jitter, 1.0)

    def next(self) -> float:
        """Count a failure; -> seconds to wait."""
        self.failures += 1
        return self.after(self.failures)

    def wait(self, stop: Flag) -> None:
        """Count a failure and wait; ends early when `stop` is set."""
        stop.wait(self.next())

    def reset(self) -> None:
        """Call after a success: the next failure counts as the first."""
        self.failures = 0
