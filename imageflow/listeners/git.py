"""Polls refs of repositories that send no webhooks; an event for each changed ref."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from imageflow.background.flag import Flag
from imageflow.background.rounds import Rounds
from imageflow.errors import TimedOut, Unavailable
from imageflow.events.triggers import git_source
from imageflow.fetch.git import ASKING, REFS, environment, unusable, whole
from imageflow.host import process
from imageflow.host.control import Control
from imageflow.listeners import Surroundings, refs
from imageflow.model import Trigger

LOG = logging.getLogger(__name__)
_TICK = 0.5  # seconds between two looks at answers
_READ = 2.0  # seconds between two looks at which repositories to poll


class GitPoller:
    """The listener. The last refs of a repository are one observation."""

    def __init__(self, surroundings: Surroundings, tick: float = _TICK, read: float = _READ) -> None:
        self._config = surroundings.config.git
        self._inbox = surroundings.inbox
        self._watched = surroundings.watched
        self._ready = surroundings.ready
        self._tick, self._read = tick, read
        self._urls: dict[str, str] = {}  # source -> URL to poll
        self._patterns: dict[str, set[str]] = {}
        self._refused: set[str] = set()

    def run(self, stop: Flag) -> None:
        """See Listener."""
        read = float("-inf")
        with Rounds(self._ask, stop, name=lambda source: f"repository {source}") as rounds:
            while not stop.is_set():
                if time.monotonic() - read >= self._read:
                    rounds.keep(self._places(self._watched.triggers("git")))
                    if read == float("-inf"):
                        self._ready("repositories")
                    read = time.monotonic()
                for source, found in rounds.results():
                    self.answered(source, found)
                stop.wait(self._tick)

    def _places(self, triggers: list[Trigger]) -> dict[str, float]:
        """Each repository once, with the shortest period that any trigger wants, and the patterns of all of them."""
        periods: dict[str, float] = {}
        patterns: dict[str, set[str]] = {}
        for trigger in triggers:
            url = str(trigger.given["git"])
            if why := unusable(url):
                if url not in self._refused:
                    self._refused.add(url)
                    LOG.warning("the repository that image %s watches is not polled: %s", trigger.image, why)
                continue
            source = git_source(url)
            every = float(trigger.given.get("every") or self._config.every)
            periods[source] = min(every, periods.get(source, every))
            patterns.setdefault(source, set()).add(whole(str(trigger.given.get("ref") or "refs/heads/*")))
            self._urls[source] = url
        self._patterns = patterns
        return periods

    def _ask(self, source: str, control: Control) -> dict[str, str]:
        url, patterns = self._urls[source], self._patterns.get(source, set())
        usual = all(pattern.startswith(("refs/heads/", "refs/tags/")) for pattern in patterns)
        scope = ["--heads", "--tags"] if usual else []
        command = [*ASKING, "git", "ls-remote", "--quiet", "--refs", *scope, "--", url]
        what = f"git ls-remote of {source}"
        try:
            with control.at_most(self._config.timeout, what):
                text = process.run(
                    command, control=control, env=environment(), cwd=Path("/"), capture=True, most=REFS, name=what
                )
        except TimedOut as error:
            raise Unavailable(error.message, hint="[git] timeout") from None
        return refs.parse(text)

    def answered(self, source: str, found: dict[str, str]) -> None:
        """Receive events for the changes, then remember the refs."""
        name = f"git:{source}"
        seen = self._watched.seen(name)
        before = refs.Seen.of(seen[0]) if seen else None
        events, after = refs.changes(self._urls[source], before, found, self._patterns.get(source, ()), time.time())
        for start in range(0, len(events), 500):
            self._inbox.receive(events[start : start + 500], listener="git")
        if after != before:
            self._watched.see(name, after.text())
