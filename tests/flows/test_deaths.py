"""What workers died of says whether their build is to blame; a suspect build runs in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imageflow.builds.run import CRASHES, SUSPECT
from imageflow.model import Build, BuildState
from imageflow.persistence import builds, steps
from tests.small.site import Site, Worker


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with Site(tmp_path, database=database_url) as site:
        yield site


def test_a_step_that_kills_every_worker_pauses(site: Site) -> None:
    """One build must not end all the conductors there are, for ever: it gets a process of its own, which dies alone."""
    site.trace.set("die-boot")
    build = site.build()
    for _ in range(SUSPECT):
        site.run_worker(expect=-9)
    other = site.build()
    site.trace.unset("die-boot")
    site.trace.set(f"die-boot-{build.id}")
    site.run_worker()
    paused = site.service.build(build.id)
    assert (paused.state, paused.step) == (BuildState.PAUSED, "boot")
    assert f"ended its worker {CRASHES} times, in a process of its own" in (paused.error or "")
    assert "SIGKILL" in (paused.error or "")
    assert site.states(build)[-1] == ("boot", SUSPECT + CRASHES, "failed")
    assert site.service.build(other.id).state is BuildState.SUCCEEDED
    site.service.resume(build.id)
    site.trace.unset(f"die-boot-{build.id}")
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    site.nothing_left()


def test_a_step_that_kills_every_worker_is_reverted_where_the_recipe_says_so(site: Site) -> None:
    site.trace.set("die-boot")
    build = site.build(on_failure="revert")
    for _ in range(SUSPECT):
        site.run_worker(expect=-9)
    site.run_worker()
    failed = site.service.build(build.id)
    assert failed.state is BuildState.FAILED and "in a process of its own" in (failed.error or "")
    site.nothing_left()


def test_ten_kills_are_not_the_fault_of_a_build(site: Site) -> None:
    """Whatever kills conductors, a build that does nothing wrong goes on; in its own process, too."""
    site.trace.set("slow-boot", "600")
    build = site.build()
    for kill in range(1, 11):
        worker = site.worker("idle")
        site.await_that(lambda kill=kill: site.trace.executed(build.id).count("boot") == kill)
        if kill % 3 == 0:
            time.sleep(0.5)
        worker.kill()
        worker.wait()
        site.await_that(own_processes_are_gone)
    assert site.service.build(build.id).state is BuildState.RUNNING
    site.trace.unset("slow-boot")
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    assert not site.trace.read(overlap="boot")
    site.nothing_left()


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Site]:
    """Its workers hand builds back at once when they are stopped."""
    with Site(tmp_path, drain_timeout="0.5") as site:
        yield site


def test_conductors_that_are_stopped_say_nothing_about_a_build(hasty: Site) -> None:
    site = hasty
    site.trace.set("slow-boot", "600")
    build = site.build()
    for stop in range(1, SUSPECT + 2):
        worker = site.worker()
        site.await_that(lambda stop=stop: site.trace.executed(build.id).count("boot") == stop)
        worker.terminate()
        worker.wait(30)
    assert {step.error for step in site.service.steps(build.id) if step.name == "boot"} == {steps.STOPPED}
    assert "in a process of its own" not in site.service.log_path(build.id).read_text()


def test_a_host_that_was_rebooted_says_nothing_about_a_build(hasty: Site) -> None:
    site = hasty
    site.trace.set("die-boot")
    build = site.build()
    for _ in range(SUSPECT):
        site.run_worker(expect=-9)
        with site.service.database.begin() as conn:  # as before a reboot
            builds.change(conn, build.id, conductor=f"{site.config.host}:1:abcdefgh:00000000.1.1")
    site.trace.unset("die-boot")
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    errors = [step.error for step in site.service.steps(build.id) if step.name == "boot"]
    assert errors == [steps.REBOOTED] * SUSPECT + [None]


def own_processes_are_gone() -> bool:
    """Of all builds here: they die with their conductor."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return not any("imageflow.builds.apart" in command for command in commands)


def suspected(site: Site, seconds: str = "600") -> tuple[Build, Worker]:
    """A build that runs in its own process, its step for so long, and its conductor."""
    site.trace.set("slow-boot", seconds)
    build = site.build()
    with site.service.database.begin() as conn:
        for _ in range(SUSPECT):
            steps.begin(conn, build.id, "boot", position=1, started=time.time())
        builds.note_step(conn, build.id, "boot", time.time())
    worker = site.worker()
    site.await_that(lambda: "boot" in site.trace.executed(build.id))
    [record] = site.trace.read(execute="boot")
    assert record["pid"] != worker.pid
    return build, worker


def test_a_build_in_its_own_process_is_cancelled(hasty: Site) -> None:
    site = hasty
    build, _worker = suspected(site)
    site.service.cancel(build.id)
    site.await_state(build, BuildState.CANCELLED, seconds=20)
    site.await_that(lambda: site.service.board.job_count == 0)
    site.nothing_left()


def test_a_build_in_its_own_process_keeps_its_lease_and_is_handed_back(hasty: Site) -> None:
    site = hasty
    build, worker = suspected(site)
    time.sleep(3 * site.config.conductor.lease)
    assert site.service.waits(build.id) is None
    assert site.trace.executed(build.id).count("boot") == 1
    site.trace.set("slow-boot", "0.1")
    worker.terminate()
    assert worker.wait(30) == 0
    assert site.service.build(build.id).state is BuildState.QUEUED
    site.await_that(own_processes_are_gone)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    site.nothing_left()


def test_a_build_that_ended_in_its_own_process_was_taken_by_nobody(tmp_path: Path) -> None:
    """The job is gone while its process still exits, and its conductor looks every tenth of a second."""
    with Site(tmp_path, lease=1.0, drain_timeout="0.5") as site:
        build, _worker = suspected(site, "2")
        site.await_state(build, BuildState.SUCCEEDED, seconds=60)
        site.await_that(own_processes_are_gone)
        site.trace.set("slow-boot", "0.1")
        other = site.build()  # a worker that goes on has done with the first
        site.await_state(other, BuildState.SUCCEEDED, seconds=60)
        assert "taken it over" not in (site.folder / "workers.log").read_text()
