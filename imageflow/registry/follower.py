"""Follows the recipes that live in git: looks at each periodically, and at once when a push to it is reported."""

from __future__ import annotations

import logging
import time

from imageflow.background.complaints import Complaints
from imageflow.background.flag import Flag
from imageflow.background.rounds import Rounds
from imageflow.config import Config
from imageflow.fetch.git import Idle
from imageflow.host.control import Control
from imageflow.registry.checkouts import Checkouts
from imageflow.registry.git_recipes import GitRecipes

LOG = logging.getLogger(__name__)
_TICK = 0.5  # seconds between two looks at which ones are due
_SWEEP = 60.0  # seconds between two looks for unused checkouts


class RecipeFollower:
    """One of the threads of `imageflow serve`; any number of processes may run it at once."""

    def __init__(
        self,
        config: Config,
        git_recipes: GitRecipes,
        checkouts: Checkouts,
        tick: float = _TICK,
        sweep: float = _SWEEP,
    ) -> None:
        self._every = config.git.every
        self._git_recipes = git_recipes
        self._checkouts = checkouts
        self._idle = Idle(config)
        self._tick, self._sweep = tick, sweep
        self._complaints = Complaints()

    def run(self, stop: Flag) -> None:
        """Follow until `stop` is set."""
        swept = time.monotonic()
        with Rounds(self._look, stop, name=lambda name: f"recipe {name}") as rounds:
            while not stop.is_set():
                with self._complaints.instead_of_failing("follow recipes in git"):
                    followed = self._git_recipes.origins()
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
                        for path in self._idle.collect(self._checkouts.used()):
                            LOG.info("removed %s: nothing uses it any more", path)
                stop.wait(self._tick)

    def _look(self, name: str, control: Control) -> list[str]:
        return self._git_recipes.look(name, control)
