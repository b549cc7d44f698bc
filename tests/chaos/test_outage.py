"""The database goes away for a while, in the middle of a build: nothing is lost, nothing runs twice at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imageflow.model import BuildState
from tests.servers.services import MariaDB, PostgreSQL, Server, running
from tests.small.flow import ALL, STEPS
from tests.small.site import Site


@pytest.mark.sliced(of=2)  # one server, of the two
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", [PostgreSQL, MariaDB])
@pytest.mark.parametrize(("away", "lease"), [(20, 30.0), (8, 3.0)], ids=["shorter-than-the-lease", "longer"])
def test_the_database_goes_away(tmp_path: Path, kind: type[Server], away: float, lease: float) -> None:
    with running(kind) as server, server.database() as url, Site(tmp_path, url, lease=lease) as site:
        for step in STEPS:
            site.trace.set(f"slow-{step}", "1.5")
        builds = [site.build() for _ in range(2)]
        site.worker()
        site.await_that(lambda: all(site.trace.executed(build.id) for build in builds))
        server.stop()
        time.sleep(away)
        server.start()
        for build in builds:
            site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED, seconds=120)
            assert site.service.build(build.id).state is BuildState.SUCCEEDED
            executed = site.trace.executed(build.id)
            assert [step for at, step in enumerate(executed) if step not in executed[:at]] == [*ALL]
        assert [record for record in site.trace.read() if "overlap" in record] == []
        site.await_that(lambda: site.service.board.job_count == 0)
        site.nothing_left()
