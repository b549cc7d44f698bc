"""Before each write of a build's life another worker takes the build: nothing is written by the first one any more."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.builds.conductor import Conductor
from imageflow.model import Build, BuildState
from imageflow.persistence.tables import conductors, jobs, metadata
from tests.small.lives import PARTS, a_build, a_failure, a_pause
from tests.small.site import Site

pytestmark = pytest.mark.sliced


def an_abort(site: Site) -> Build:
    site.trace.set("fail-configure")
    build = site.build()
    work(site)
    site.service.abort(build.id)
    return build


LIVES: dict[Callable[[Site], Build], BuildState] = {
    a_build: BuildState.SUCCEEDED,
    a_pause: BuildState.PAUSED,
    a_failure: BuildState.FAILED,
    an_abort: BuildState.ABORTED,
}


def work(site: Site, until: Callable[[], bool] = lambda: False) -> None:
    """Be the worker, until nothing is queued."""
    Conductor(site.service).run(lambda: until() or site.service.board.job_count == 0)


class Thief:
    """Another worker, which takes the build just before the first one's write of this number."""

    def __init__(self, site: Site, build: Build, number: int) -> None:
        self._database = site.service.database
        self._begin = self._database.begin
        self._build = build
        self._left = number
        self.found: Counter[Any] | None = None  # every row, when it had the build

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        if threading.current_thread().name.startswith("build"):
            self._left -= 1
            if self._left == 0:
                self._take()
        with self._begin() as conn:
            yield conn

    def _take(self) -> None:
        until = self._database.now() + 3600
        taken = sa.update(jobs).where(jobs.c.name == self._build.id)
        with self._begin() as conn:
            if conn.execute(taken.values(owner="another", until=until, fence=jobs.c.fence + 1)).rowcount == 0:
                return  # it is over
        self.found = self.rows()

    def give_back(self) -> None:
        with self._begin() as conn:
            conn.execute(sa.update(jobs).values(owner=None, until=0.0))

    def rows(self) -> Counter[Any]:
        """Everything in the database, but who is alive."""
        with self._database.read() as conn:
            tables = [table for table in metadata.sorted_tables if table is not conductors]
            return Counter((table.name, repr(row)) for table in tables for row in conn.execute(sa.select(table)))


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("begin", LIVES, ids=lambda begin: begin.__name__)
def test_who_lost_its_build_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Site], Build], part: int
) -> None:
    """No heartbeat tells it: only what it proves in each write."""
    with Site(tmp_path, lease=60.0, janitor="60") as site:
        for number in range(1 + part, 1000, PARTS):
            build = begin(site)
            thief = Thief(site, build, number)
            with monkeypatch.context() as patch:
                patch.setattr(site.service.database, "begin", thief.begin)
                work(site, lambda thief=thief: thief.found is not None)  # type: ignore[misc]
            if thief.found is None:
                break
            wrote = thief.rows()
            assert wrote == thief.found, (number, wrote - thief.found, thief.found - wrote)
            thief.give_back()
            work(site)
            assert site.service.build(build.id).state is LIVES[begin], number
        assert number > 1 + part, "it has too few writes"
        assert site.service.build(build.id).state is LIVES[begin]
