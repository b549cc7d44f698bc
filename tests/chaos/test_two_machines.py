"""Conductors on two machines over one database: each has its own state folder and host name."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from imageflow.model import BuildState
from tests.small.flow import ALL, STEPS, Trace
from tests.small.site import Site


@pytest.mark.parametrize("step", ["boot", "snapshot"])
def test_the_other_machine_takes_over_and_makes_again_what_is_missing(
    tmp_path: Path, database_url: str, step: str
) -> None:
    for machine in ("red", "blue"):
        (tmp_path / machine).mkdir()
    with (
        Site(tmp_path / "red", database_url, host="red") as red,
        Site(tmp_path / "blue", database_url, host="blue") as blue,
    ):
        blue.trace = Trace(red.trace.folder)
        red.trace.set(f"slow-{step}", "30")
        build = red.build()
        worker = red.worker()
        red.await_that(lambda: step in red.trace.executed(build.id))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        red.trace.set(f"slow-{step}", "0.1")
        elsewhere = red.config.builds_dir.rename(tmp_path / "what blue can't see")
        blue.worker()
        done = blue.await_state(build, BuildState.SUCCEEDED)
        assert done.host == "blue"
        assert red.trace.executed(build.id)[: STEPS.index(step) + 1] == [*STEPS[: STEPS.index(step) + 1]]
        ran_on_blue = [
            record.name for record in blue.service.steps(build.id) if str(record.conductor).startswith("blue:")
        ]
        assert sorted(ran_on_blue, key=ALL.index) == [*ALL]  # nothing that red made is there for blue
        blue.await_that(lambda: blue.service.board.job_count == 0)

        left = blue.service.resources()
        assert {resource.host for resource in left} == {"red"}  # only red itself can remove what lies on its disk
        elsewhere.rename(red.config.builds_dir)
        red.service.reap()
        assert red.service.resources() == []
        assert list(red.config.builds_dir.glob("*")) == []


def test_two_machines_share_the_work(tmp_path: Path, database_url: str) -> None:
    for machine in ("red", "blue"):
        (tmp_path / machine).mkdir()
    with (
        Site(tmp_path / "red", database_url, host="red") as red,
        Site(tmp_path / "blue", database_url, host="blue") as blue,
    ):
        for step in STEPS:
            red.trace.set(f"slow-{step}", "0.2")
        builds = [red.build() for _ in range(8)]
        red.worker()
        blue.worker()
        hosts = {red.await_state(build, BuildState.SUCCEEDED).host for build in builds}
        assert hosts == {"red", "blue"}
        assert [record for record in red.trace.read() if "overlap" in record] == []
