"""Follows the recipes that live in git: looks at each now and then, and at once when a push to it is told of."""

from __future__ import annotations

import logging
import time

from imageflow.complaints import Complaints
from imageflow.config import Config
from imageflow.control import Control
from imageflow.hosted import Hosted
from imageflow.listeners.rounds import Rounds
from imageflow.repository import Idle
from imageflow.signals import Flag

LOG = logging.getLogger(__name__)
_TICK = 0.5  # seconds between two looks at who is to be looked at
_SWEEP = 60.0  # seconds between two looks for checkouts that nobody uses


class Following:
    """One of the threads of `imageflow serve`; any number of processes may do this at once."""

    def __init__(self, config: Config, hosted: Hosted, tick: float = _TICK, sweep: float = _SWEEP) -> None:
        self._every = config.git.every
        self._hosted = hosted
        self._idle = Idle(config)
        self._tick, self._sweep = tick, sweep
        self._complaints = Complaints()

    def run(self, stop: Flag) -> None:
        """Follow until `stop` is set."""
        swept = time.monotonic()
        with Rounds(self._look, stop, name=lambda name: f"recipe {name}") as rounds:
            while not stop.is_set():
                with self._complaints.instead_of_failing("follow recipes in git"):
                    followed = self._hosted.origins()
                    rounds.keep({origin.name: self._every for origin in followed})
                    for origin in followed:
                        if origin.asked > origin.looked:
                            rounds.again(origin.name, 0.0)
                    for name, changed in rounds.results():
                        if changed:
                            LOG.info("%s has a new commit, which changes %s", name, ", ".join(changed))
                if time.monotonic() - swept >= self._sweep:
                    swept = time.monotonic()
                    with self._complaints.instead_of_failing("remove old checkouts"):
                        for path in self._idle.collect(self._hosted.used()):
                            LOG.info("removed %s: nothing is built from it any more", path)
                stop.wait(self._tick)

    def _look(self, name: str, control: Control) -> list[str]:
        return self._hosted.look(name, control)
