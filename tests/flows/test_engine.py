"""Failure, pause, resume, abort, cancel, takeover, drain: on a small flow with real children and real workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imageflow.errors import Conflict
from imageflow.model import Build, BuildState, StepState
from tests.small.flow import ALL, STEPS
from tests.small.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as site:
        yield site


def child_of(site: Site, build: Build, step: str) -> int:
    """Wait until a step works; -> its child's pid."""
    pids = site.config.builds_dir / f"{build.id}-{step}" / "pids"
    return int(site.await_that(lambda: pids.exists() and pids.read_text()))  # a shell makes the file, and then writes


def test_a_build_runs_to_its_image(site: Site) -> None:
    build = site.build()
    site.run_worker()
    done = site.service.build(build.id)
    assert done.state is BuildState.SUCCEEDED
    assert done.digest is not None and done.digest.startswith(build.id)
    assert site.states(build) == [(step, 1, "succeeded") for step in ALL]
    assert site.trace.executed(build.id) == [*ALL]
    assert "working on boot" in site.service.log_path(build.id).read_text()
    site.nothing_left()


def test_a_failing_step_pauses_and_resume_goes_on_from_it(site: Site) -> None:
    site.trace.set("fail-configure")
    build = site.build()
    site.run_worker()
    paused = site.service.build(build.id)
    assert (paused.state, paused.step) == (BuildState.PAUSED, "configure")
    assert paused.error == "configure was told to fail"
    assert paused.hint == "take the file away"
    assert site.trace.reverted(build.id) == []
    assert site.service.board.job_count == 0  # a paused build holds no worker and no job
    assert len(site.service.resources()) == 3

    site.service.resume(build.id)  # nothing was mended: it pauses again
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.PAUSED

    site.trace.unset("fail-configure")
    site.service.resume(build.id)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    assert site.states(build) == [
        ("fetch", 1, "succeeded"),
        ("boot", 1, "succeeded"),
        ("configure", 1, "failed"),
        ("configure", 2, "failed"),
        ("configure", 3, "succeeded"),
        ("snapshot", 1, "succeeded"),
        ("publish", 1, "succeeded"),
        ("tidy", 1, "succeeded"),
    ]
    site.nothing_left()


def test_abort_of_a_paused_build_leaves_nothing(site: Site) -> None:
    site.trace.set("fail-snapshot")
    build = site.build()
    site.run_worker()
    assert site.service.abort(build.id).state is BuildState.REVERTING
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.ABORTED
    assert site.trace.reverted(build.id) == ["snapshot", "configure", "boot", "fetch"]
    site.nothing_left()
    with pytest.raises(Conflict):
        site.service.resume(build.id)
    with pytest.raises(Conflict):
        site.service.abort(build.id)


def test_a_failing_revert_is_reported_and_the_janitor_finishes(site: Site) -> None:
    site.trace.set("fail-snapshot")
    site.trace.set("left-boot")
    build = site.build()
    site.run_worker()
    site.service.abort(build.id)
    site.run_worker()
    aborted = site.service.build(build.id)
    assert aborted.state is BuildState.ABORTED
    assert aborted.error is not None and "boot can't be removed" in aborted.error
    assert site.trace.reverted(build.id)[-2:] == ["boot", "fetch"]  # upstream is reverted all the same
    site.service.reap()  # or a janitor was faster
    site.nothing_left()


def test_on_failure_revert(site: Site) -> None:
    site.trace.set("fail-configure")
    build = site.build(on_failure="revert")
    site.run_worker()
    failed = site.service.build(build.id)
    assert (failed.state, failed.error) == (BuildState.FAILED, "configure was told to fail")
    site.nothing_left()


def test_abort_before_it_ran(site: Site) -> None:
    build = site.build()
    assert site.service.abort(build.id).state is BuildState.ABORTED
    assert site.service.board.job_count == 0
    site.run_worker()
    assert site.trace.executed(build.id) == []


def test_cancel_ends_the_children_of_the_running_step(site: Site) -> None:
    site.trace.set("slow-configure", "60")
    build = site.build()
    site.worker()
    child = child_of(site, build, "configure")
    began = time.monotonic()
    site.service.cancel(build.id)
    site.await_state(build, BuildState.CANCELLED, seconds=20)
    assert time.monotonic() - began < 15
    assert not Path(f"/proc/{child}").exists()
    site.await_that(lambda: site.service.board.job_count == 0)
    site.nothing_left()


def test_step_timeout_pauses(site: Site) -> None:
    site.trace.set("slow-boot", "60")
    build = site.build(timeout={"step": 3, "build": None})
    site.run_worker()
    paused = site.service.build(build.id)
    assert (paused.state, paused.step) == (BuildState.PAUSED, "boot")
    assert "longer than its limit" in (paused.error or "")


def test_build_timeout_pauses_and_resume_gives_a_new_one(site: Site) -> None:
    site.trace.set("slow-boot", "60")
    build = site.build(timeout={"build": 4})
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.PAUSED
    site.trace.set("slow-boot", "0.1")
    site.service.resume(build.id)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED


@pytest.mark.parametrize("step", STEPS)
def test_kill_9_in_a_step_then_takeover(site: Site, step: str) -> None:
    site.trace.set(f"die-{step}")
    build = site.build()
    site.run_worker(expect=-signal.SIGKILL)
    site.trace.unset(f"die-{step}")
    before = site.trace.executed(build.id)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    again = site.trace.executed(build.id)[len(before) :]
    assert again[0] == step  # nothing finished ran again, nothing was left out
    assert again == [*ALL][ALL.index(step) :]
    site.nothing_left()


@pytest.mark.parametrize("step", ["snapshot", "configure", "fetch"])
def test_kill_9_in_a_revert_then_takeover(site: Site, step: str) -> None:
    site.trace.set("fail-snapshot")
    build = site.build()
    site.run_worker()
    site.service.abort(build.id)
    site.trace.set(f"die-revert-{step}")
    site.run_worker(expect=-signal.SIGKILL)
    site.trace.unset(f"die-revert-{step}")
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.ABORTED
    site.nothing_left()


def test_drain_hands_back_and_the_next_worker_goes_on(site: Site) -> None:
    site.trace.set("slow-boot", "1.5")
    build = site.build()
    worker = site.worker()
    site.await_that(lambda: "boot" in site.trace.executed(build.id))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(15) == 0
    handed = site.service.build(build.id)
    assert handed.state is BuildState.QUEUED
    assert site.states(build)[-1] == ("boot", 1, "succeeded")  # the running step was let finish
    assert site.service.conductors() == []
    site.run_worker()
    assert site.trace.executed(build.id) == [*ALL]
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    site.nothing_left()


def test_drain_is_bounded(tmp_path: Path) -> None:
    with Site(tmp_path, drain_timeout="0.5") as site:
        site.trace.set("slow-boot", "60")
        build = site.build()
        worker = site.worker()
        child = child_of(site, build, "boot")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        assert not Path(f"/proc/{child}").exists()
        assert site.service.build(build.id).state is BuildState.QUEUED
        site.trace.set("slow-boot", "0.1")
        site.run_worker()
        assert site.service.build(build.id).state is BuildState.SUCCEEDED
        assert site.states(build)[1:3] == [("boot", 1, "failed"), ("boot", 2, "succeeded")]
        site.nothing_left()


def test_a_stopped_worker_writes_nothing_after_its_lease(site: Site) -> None:
    site.trace.set("slow-configure", "6")
    build = site.build()
    zombie = site.worker()
    child = child_of(site, build, "configure")
    site.freeze(zombie)
    site.trace.set("slow-configure", "4")
    site.worker()  # takes over when the lease is gone
    site.await_that(lambda: site.trace.executed(build.id).count("configure") == 2)
    assert psutil.Process(child).status() == psutil.STATUS_ZOMBIE  # ended; only its stopped parent could reap it
    owner = site.service.build(build.id).conductor
    zombie.send_signal(signal.SIGCONT)
    done = site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED)
    assert done.state is BuildState.SUCCEEDED
    assert done.conductor == owner
    assert f":{zombie.pid}:" not in str(owner)
    attempts = [step for step in site.service.steps(build.id) if step.name == "configure"]
    assert [str(step.state) for step in attempts] == ["failed", "succeeded"]
    assert f":{zombie.pid}:" in str(attempts[0].conductor)
    assert os.path.exists(f"/proc/{zombie.pid}")
    assert site.trace.executed(build.id) == [*ALL[:3], *ALL[2:]]
    site.nothing_left()


def test_a_lease_that_ran_out_and_that_nobody_took_is_renewed(tmp_path: Path) -> None:
    """The host was too busy for a heartbeat: the step goes on, and does not run again."""
    with Site(tmp_path, lease=4.0) as site:
        site.trace.set("slow-configure", "8")
        build = site.build()
        worker = site.worker()
        child = child_of(site, build, "configure")
        site.freeze(worker)
        site.await_that(lambda: site.service.board.unclaimed([build.id]))  # from now on anybody may take it
        worker.send_signal(signal.SIGCONT)
        site.await_that(lambda: site.service.board.unclaimed([build.id]) == [], 10)
        assert Path(f"/proc/{child}").exists()
        site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED)
        assert site.states(build) == [(step, 1, "succeeded") for step in ALL]
        assert site.trace.executed(build.id) == [*ALL]
        site.await_that(lambda: site.service.board.job_count == 0)
        site.nothing_left()


def test_the_time_that_a_worker_was_stopped_for_is_not_the_steps(tmp_path: Path) -> None:
    """Its limit passed while nobody looked: the step is not too late, it runs again."""
    with Site(tmp_path, lease=1.0) as site:
        site.trace.set("slow-configure", "60")  # it is not done when the worker goes on, however slow the machine is
        build = site.build(timeout={"step": 5})
        worker = site.worker()
        child_of(site, build, "configure")
        site.freeze(worker)
        time.sleep(6)  # more than the step may take
        site.trace.set("slow-configure", "0.1")
        worker.send_signal(signal.SIGCONT)
        done = site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED)
        assert done.state is BuildState.SUCCEEDED, done.error
        assert site.trace.executed(build.id) == [*ALL[:3], *ALL[2:]]
        site.await_that(lambda: site.service.board.job_count == 0)
        site.nothing_left()


def test_a_paused_build_expires(tmp_path: Path) -> None:
    with Site(tmp_path, builds__pause_ttl="1", janitor="0.2") as site:
        site.trace.set("fail-boot")
        build = site.build()
        site.worker()
        site.await_state(build, BuildState.ABORTED)  # it is paused for a second, which a busy machine may not see
        assert site.states(build)[-1] == ("boot", 1, "reverted")
        site.await_that(lambda: site.service.board.job_count == 0)
        site.nothing_left()


def test_steps_run_again_when_what_they_made_is_gone(site: Site) -> None:
    """After a takeover on another machine, or a cleaned disk."""
    site.trace.set("fail-snapshot")
    build = site.build()
    site.run_worker()
    (site.config.builds_dir / f"{build.id}-boot" / "pids").unlink()
    (site.config.builds_dir / f"{build.id}-boot").rmdir()
    site.trace.unset("fail-snapshot")
    site.service.resume(build.id)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    assert [name for name, _attempt, state in site.states(build) if state == StepState.SUCCEEDED] == [
        "fetch", "boot", "boot", "configure", "configure", "snapshot", "publish", "tidy",
    ]  # fmt: skip
    site.nothing_left()


def test_a_secret_that_a_child_prints_is_stored_nowhere(tmp_path: Path) -> None:
    value = 's3cret "quoted" \\ door'
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "door").write_text(value + "\n")
    with Site(tmp_path, secrets__directory=str(tmp_path / "secrets")) as site:
        site.trace.set("tell-boot")
        build = site.build()
        site.run_worker()
        paused = site.service.build(build.id)
        assert paused.error == "sh ended with exit code 3"
        assert paused.hint == "the key is ******"
        assert "the key is ******" in site.service.log_path(build.id).read_text()
        for file in [*site.config.state_dir.rglob("*"), site.folder / "workers.log"]:
            if file.is_file():
                assert b"s3cret" not in file.read_bytes(), file
