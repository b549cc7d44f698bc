"""Many builds, two workers, a random one killed every few seconds: all finish, nothing overlaps, nothing leaks."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from imageflow.model import BuildState
from tests.small.flow import ALL, STEPS
from tests.small.site import Site


def _storm(folder: Path, database: str, builds: int, gap: float, seconds: float) -> None:
    with Site(folder, database, lease=3.0, max_builds="4") as site:
        for step in STEPS:
            site.trace.set(f"slow-{step}", "0.3")  # however fast the machine is, two kills come in between
        queued = [site.build() for _ in range(builds)]
        for _ in range(2):
            site.worker()
        kills, began = 0, time.monotonic()
        states: Counter[str] = Counter()
        while time.monotonic() - began < seconds:
            time.sleep(gap)
            states = Counter(str(build.state) for build in site.service.builds(limit=builds))
            if states[BuildState.SUCCEEDED] == builds:
                break
            victim = random.choice([worker for worker in site.workers if worker.poll() is None])
            victim.kill()
            victim.wait()
            kills += 1
            site.worker()
        print(f"{builds} builds, {kills} workers killed, {time.monotonic() - began:.0f} s: {dict(states)}")
        assert states == {"succeeded": builds}
        assert kills >= 2
        assert [record for record in site.trace.read() if "overlap" in record] == []
        for build in queued:
            executed = site.trace.executed(build.id)
            assert [step for at, step in enumerate(executed) if step not in executed[:at]] == [*ALL]
        site.await_that(lambda: site.service.board.job_count == 0, 10)
        site.nothing_left()


@pytest.mark.sliced(of=3)  # one database, of the three
def test_storm(tmp_path: Path, database_url: str) -> None:
    """Part of every change: enough builds for a dozen kills."""
    _storm(tmp_path, database_url, builds=30, gap=2.0, seconds=240)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_storm_of_100(tmp_path: Path, database_url: str) -> None:
    """100 builds, one of two workers killed every 3 s, on each database."""
    _storm(tmp_path, database_url, builds=100, gap=3.0, seconds=800)
