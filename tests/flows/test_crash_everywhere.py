"""kill -9 of the worker before every commit of a build's life: the next worker ends it right."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from imageflow.model import BuildState
from tests.small.flow import ALL
from tests.small.site import Site

BUNCH = 6  # moments that one test goes through; each has its own build


def _crash(site: Site, moment: str) -> bool:
    """-> whether the worker died at that moment; False when the build ended before."""
    code = site.worker("idle", moment, module="tests.small.bomb").wait(60)
    assert code in (0, -signal.SIGKILL), (site.folder / "workers.log").read_text()[-3000:]
    return code == -signal.SIGKILL


@pytest.mark.parametrize("first", range(1, 60, BUNCH))
def test_before_every_commit_of_a_build(tmp_path: Path, first: int) -> None:
    with Site(tmp_path, lease=1.0) as site:
        for number in range(first, first + BUNCH):
            build = site.build()
            died = _crash(site, f"commit:{number}")
            if died:
                site.run_worker()
            done = site.service.build(build.id)
            assert done.state is BuildState.SUCCEEDED, (number, done)
            executed = site.trace.executed(build.id)
            assert [step for at, step in enumerate(executed) if step not in executed[:at]] == [*ALL], (number, executed)
            assert len(executed) <= len(ALL) + 1, (number, executed)  # at most the step it died in ran again
            assert site.trace.read(build=build.id, overlap=None) == []
            site.nothing_left()
            if not died:
                return


@pytest.mark.parametrize("first", range(1, 60, BUNCH))
def test_before_every_commit_of_an_abort(tmp_path: Path, first: int) -> None:
    with Site(tmp_path, lease=1.0) as site:
        site.trace.set("fail-snapshot")
        for number in range(first, first + BUNCH):
            build = site.build()
            site.run_worker()
            site.service.abort(build.id)
            died = _crash(site, f"commit:{number}")
            if died:
                site.run_worker()
            assert site.service.build(build.id).state is BuildState.ABORTED, number
            site.nothing_left()
            if not died:
                return


@pytest.mark.parametrize("first", range(1, 60, BUNCH))
def test_before_every_commit_of_a_failure_that_reverts(tmp_path: Path, first: int) -> None:
    with Site(tmp_path, lease=1.0) as site:
        site.trace.set("fail-configure")
        for number in range(first, first + BUNCH):
            build = site.build(on_failure="revert")
            died = _crash(site, f"commit:{number}")
            if died:
                site.run_worker()
            assert site.service.build(build.id).state is BuildState.FAILED, number
            site.nothing_left()
            if not died:
                return
