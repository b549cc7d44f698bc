"""A pause that grows with each failure and begins anew after a success."""

from __future__ import annotations

from imageflow.signals import Flag

_MOST = 10.0  # seconds; brokers take a consumer that is silent for much longer for dead


class Pause:
    """How long to leave alone what does not answer; one thread."""

    def __init__(self, first: float = 0.25, most: float = _MOST) -> None:
        self._first = first
        self._most = most
        self.seconds = first

    def wait(self, stop: Flag) -> None:
        """Wait this time, twice as long the next; ends when `stop` is set."""
        stop.wait(self.seconds)
        self.seconds = min(2 * self.seconds, self._most)

    def over(self) -> None:
        """It answered."""
        self.seconds = self._first
