"""kill -9 of the worker before every commit of a build's life: the next worker ends it right."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow.events.own import PUBLISH
from imageflow.model import Build, BuildState
from imageflow.persistence import tables
from tests.small.flow import ALL
from tests.small.lives import PARTS, a_build, a_failure, a_pause
from tests.small.site import Site

Begin = Callable[[Site], Build]

pytestmark = pytest.mark.sliced


def an_abort(site: Site) -> Build:
    site.trace.set("fail-snapshot")
    build = site.build()
    site.run_worker()
    site.service.abort(build.id)
    return build


def a_site(folder: Path) -> Site:
    """One that tells others of its builds, and has a target: nobody works on either here."""
    return Site(folder, lease=1.0, announce__targets="notifications", publish__targets=f"far=directory:{folder}/far")


def _consistent(site: Site, build: Build) -> None:
    """What belongs to a state is there as soon as the state is, and not before."""
    now = site.service.build(build.id)
    with site.service.database.read() as conn:
        told = conn.execute(sa.select(tables.outbox.c.type).where(tables.outbox.c.build_id == build.id)).scalars()
        said = [kind.removeprefix("imageflow.") for kind in told]
        made = conn.execute(sa.select(tables.versions.c.id).where(tables.versions.c.build_id == build.id)).scalars()
        wanted = sa.select(tables.publications.c.target).where(tables.publications.c.version_id.in_(made.all()))
        targets = conn.execute(wanted).scalars().all()
        events = conn.execute(sa.select(tables.events.c.id).where(tables.events.c.type == PUBLISH)).scalars().all()
        versions = conn.execute(sa.select(sa.func.count()).select_from(tables.versions)).scalar_one()
    succeeded = now.state is BuildState.SUCCEEDED
    assert site.service.board.job_count == int(not now.state.ended and now.state is not BuildState.PAUSED), now
    assert ("build.start" in said) == (now.conductor is not None), (now, said)
    assert said.count("build.end") == said.count("image.publish") == int(succeeded), (now, said)
    assert said.count("build.error") == int(now.state.ended and not succeeded), (now, said)
    if now.state in (BuildState.PAUSED, BuildState.RUNNING):
        assert said.count("build.pause") == int(now.state is BuildState.PAUSED), (now, said)
    assert list(targets) == (["far"] if succeeded else []), now
    assert len(events) == versions


def _bomb(site: Site, moment: str) -> int:
    return site.worker("idle", moment, module="tests.small.bomb").wait(60)


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Begin], int]:
    """How many commits a worker makes for what begins so: nobody is killed, and no lease runs out."""

    @functools.cache
    def count(begin: Begin) -> int:
        folder = tmp_path_factory.mktemp("count")
        with Site(folder, lease=30.0) as site:
            begin(site)
            assert _bomb(site, f"count:{folder / 'commits'}") == 0, (folder / "workers.log").read_text()[-3000:]
        return (folder / "commits").stat().st_size

    return count


def _killed(site: Site, begin: Begin, last: int, part: int) -> Iterator[tuple[int, Build]]:
    """A build for each commit of this part: its worker has died before that commit, and another one has done the rest."""
    numbers = range(1 + part, last + 1, PARTS)
    assert numbers, f"there are only {last} commits"
    for number in numbers:
        build = begin(site)
        code = _bomb(site, f"commit:{number}")
        log = (site.folder / "workers.log").read_text()[-3000:]
        assert code == -signal.SIGKILL, f"commit {number} of {last} was not reached: {code} {log}"
        _consistent(site, build)
        site.run_worker()
        _consistent(site, build)
        yield number, build
        if not site.service.build(build.id).paused:
            site.nothing_left()


@pytest.mark.parametrize("part", range(PARTS))
def test_before_every_commit_of_a_build(tmp_path: Path, last: Callable[[Begin], int], part: int) -> None:
    with a_site(tmp_path) as site:
        for number, build in _killed(site, a_build, last(a_build), part):
            done = site.service.build(build.id)
            assert done.state is BuildState.SUCCEEDED, (number, done)
            executed = site.trace.executed(build.id)
            assert [step for at, step in enumerate(executed) if step not in executed[:at]] == [*ALL], (number, executed)
            assert len(executed) <= len(ALL) + 1, (number, executed)  # at most the step it died in ran again
            assert site.trace.read(build=build.id, overlap=None) == []


@pytest.mark.parametrize("part", range(PARTS))
def test_before_every_commit_of_an_abort(tmp_path: Path, last: Callable[[Begin], int], part: int) -> None:
    with a_site(tmp_path) as site:
        for number, build in _killed(site, an_abort, last(an_abort), part):
            assert site.service.build(build.id).state is BuildState.ABORTED, number


@pytest.mark.parametrize("part", range(PARTS))
def test_before_every_commit_of_a_failure_that_reverts(tmp_path: Path, last: Callable[[Begin], int], part: int) -> None:
    with a_site(tmp_path) as site:
        for number, build in _killed(site, a_failure, last(a_failure), part):
            assert site.service.build(build.id).state is BuildState.FAILED, number


@pytest.mark.parametrize("part", range(PARTS))
def test_before_every_commit_of_a_pause(tmp_path: Path, last: Callable[[Begin], int], part: int) -> None:
    with a_site(tmp_path) as site:
        for number, build in _killed(site, a_pause, last(a_pause), part):
            assert site.service.build(build.id).state is BuildState.PAUSED, number
