"""Refs of repositories that can't call us: asked for now and then, an event for each that changed."""

from __future__ import annotations

import logging
import os
import re
import shlex
import time
from pathlib import Path

from imageflow import process
from imageflow.control import Control
from imageflow.errors import Refused, TimedOut, Unavailable
from imageflow.listeners import Surroundings, refs
from imageflow.listeners.rounds import Rounds
from imageflow.model import Trigger
from imageflow.signals import Flag
from imageflow.triggers import git_source

LOG = logging.getLogger(__name__)
_TICK = 0.5  # seconds between two looks at answers
_READ = 2.0  # seconds between two looks at which repositories there are
_FOREIGN = re.compile(  # of a hook or an alias that started us: git would look at that repository, or print more
    r"GIT_(DIR|WORK_TREE|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|COMMON_DIR|NAMESPACE|PREFIX"
    r"|SHALLOW_FILE|GRAFT_FILE|QUARANTINE_PATH|CONFIG_PARAMETERS|CONFIG_COUNT|TRACE.*|CURL_VERBOSE)"
)


class GitPoller:
    """The listener. What a repository's refs were is one observation per repository."""

    def __init__(self, surroundings: Surroundings, tick: float = _TICK, read: float = _READ) -> None:
        self._config = surroundings.config.git
        self._inbox = surroundings.inbox
        self._watched = surroundings.watched
        self._ready = surroundings.ready
        self._tick, self._read = tick, read
        self._urls: dict[str, str] = {}  # source -> URL to ask
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
        """Each repository once, with the shortest period that any trigger wants; its patterns are all of theirs."""
        periods: dict[str, float] = {}
        patterns: dict[str, set[str]] = {}
        for trigger in triggers:
            url = str(trigger.given["git"])
            if why := refs.unusable(url):
                if url not in self._refused:
                    self._refused.add(url)
                    LOG.warning("the repository that image %s watches is not looked at: %s", trigger.image, why)
                continue
            source = git_source(url)
            every = float(trigger.given.get("every") or self._config.every)
            periods[source] = min(every, periods.get(source, every))
            patterns.setdefault(source, set()).add(refs.whole(str(trigger.given.get("ref") or "refs/heads/*")))
            self._urls[source] = url
        self._patterns = patterns
        return periods

    def _ask(self, source: str, control: Control) -> dict[str, str]:
        url, patterns = self._urls[source], self._patterns.get(source, set())
        usual = all(pattern.startswith(("refs/heads/", "refs/tags/")) for pattern in patterns)
        scope = ["--heads", "--tags"] if usual else []
        command = ["git", "ls-remote", "--quiet", "--refs", *scope, "--", url]
        what = f"git ls-remote of {source}"
        try:
            with control.at_most(self._config.timeout, what):
                text = process.run(command, control=control, env=environment(), cwd=Path("/"), capture=True, name=what)
        except TimedOut as error:
            raise Unavailable(error.message, hint="[git] timeout") from None
        if len(text) > 1 << 28:
            raise Refused("it has more refs than anybody can look at")
        return refs.parse(text)

    def answered(self, source: str, found: dict[str, str]) -> None:
        """Events for what changed; then it is remembered."""
        name = f"git:{source}"
        seen = self._watched.seen(name)
        before = refs.Seen.of(seen[0]) if seen else None
        events, after = refs.changes(self._urls[source], before, found, self._patterns.get(source, ()), time.time())
        for start in range(0, len(events), 500):
            self._inbox.receive(events[start : start + 500], listener="git")
        if after != before:
            self._watched.see(name, after.text())


def environment() -> dict[str, str]:
    """Our own, with git told to ask nobody, and to use no other way than those that recipes may name."""
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.fullmatch(name)}
    ssh = kept.pop("GIT_SSH_COMMAND", None) or shlex.quote(kept.get("GIT_SSH", "ssh"))
    return kept | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "false",
        "SSH_ASKPASS": "false",
        "SSH_ASKPASS_REQUIRE": "never",
        "GIT_SSH_COMMAND": f"{ssh} -oBatchMode=yes -oConnectTimeout=20",
        "GIT_ALLOW_PROTOCOL": ":".join(refs.SCHEMES),
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C.UTF-8",
    }
