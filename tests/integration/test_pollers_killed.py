"""Pollers in processes that are killed at any moment, while what they look at goes on changing."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from imageflow.background.flag import Flag
from imageflow.listeners.git import GitPoller
from imageflow.listeners.watch import Watcher
from imageflow.model import Event
from tests.small.polled import Site, git, images, until

SETTINGS = "[git]\nevery = 1\n[watch]\nevery = 1"
ROUNDS = 6


def _serve(folder: str) -> None:
    site = Site(Path(folder), settings=SETTINGS)
    stop = Flag()
    poller, watcher = GitPoller(site.around(), tick=0.02), Watcher(site.around(), tick=0.02, settle=0.05)
    threading.Thread(target=poller.run, args=(stop,), daemon=True).start()
    watcher.run(stop)


@pytest.mark.timeout(240)
def test_two_processes_killed_at_any_moment(tmp_path: Path) -> None:
    """What is looked at now and then is not seen at each of its steps; but the events are a chain without a gap, and
    none is there twice."""
    bare, work = tmp_path / "infra.git", tmp_path / "work"
    git("init", "-q", "--bare", "-b", "main", bare)
    git("init", "-q", "-b", "main", work)
    git("remote", "add", "origin", bare, at=work)
    commits = []
    for _ in range(3):
        git("commit", "-q", "--allow-empty", "-m", "x", at=work)
        commits.append(git("rev-parse", "HEAD", at=work))
    site = Site(tmp_path / "site", settings=SETTINGS)
    file = site.folder / "site.conf"
    chosen = random.Random(4)

    def change() -> None:
        file.write_text(chosen.choice(["one", "two", "three"]))
        git("push", "-q", "--force", "origin", f"{chosen.choice(commits)}:refs/heads/main", at=work)

    change()
    site.register(images(web=f"{{git: '{bare}', ref: main}}, {{watch: site.conf}}"))
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_serve, args=(str(site.folder),)) for _ in range(2)]
    for process in processes:
        process.start()
    until(lambda: site.watched.seen(f"git:{bare}") and site.watched.seen("watch:web/site.conf"), 60)
    for turn in range(ROUNDS):
        known = len(site.events())
        end = time.monotonic() + 60
        more = time.monotonic() + chosen.uniform(1.0, 2.0)
        while time.monotonic() < more or (len(site.events()) < known + 3 and time.monotonic() < end):
            change()
            time.sleep(0.1)
        victim = processes[turn % 2]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(30)
        processes[turn % 2] = spawn.Process(target=_serve, args=(str(site.folder),))
        processes[turn % 2].start()
    file.write_text("last")
    git("commit", "-q", "--allow-empty", "-m", "x", at=work)
    git("push", "-q", "--force", "origin", "HEAD:main", at=work)
    head = git("rev-parse", "HEAD", at=work)
    digest = hashlib.sha256(b"last").hexdigest()
    try:
        until(lambda: _ends(site, "git.push", head) and _ends(site, "imageflow.input", digest), 60)
        time.sleep(2.5)  # both look once more
    finally:
        for process in processes:
            process.kill()
            process.join(30)
    for kind in ("git.push", "imageflow.input"):
        found = site.events(kind)
        assert len(found) > ROUNDS
        assert len({event.id for event in found}) == len(found)
        _is_chain(found)


def _ends(site: Site, kind: str, after: str) -> bool:
    return any(event.data["after"] == after for event in site.events(kind))


def _is_chain(found: list[Event]) -> None:
    """In the order of their generations: each begins where one of the generation before ended."""
    by_generation: dict[int, list[Event]] = {}
    for event in found:
        by_generation.setdefault(int(event.id.rpartition("#")[2]), []).append(event)
    assert sorted(by_generation) == list(range(1, len(by_generation) + 1)), "a gap"
    for generation, events in by_generation.items():
        if generation > 1:
            ends = {event.data["after"] for event in by_generation[generation - 1]}
            assert {event.data["before"] for event in events} <= ends
