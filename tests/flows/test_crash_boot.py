"""kill -9 of the worker, and of QEMU, at every boundary and inside every step of the flow boot: real machines."""

from __future__ import annotations

import contextlib
import os
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageflow.builds.engine import outline
from imageflow.host.control import Control
from imageflow.model import Build, BuildState, StepState
from tests.guests import tiny
from tests.small.machines import MachineSite

pytestmark = [pytest.mark.machine, pytest.mark.sliced, pytest.mark.timeout(600)]


def recipe(folder: Path, marker: str = "one", **more: Any) -> Path:
    """An image made on the tiny guest: a shell step, a file, another shell step."""
    file = folder / "recipe.yaml"
    file.write_text(
        textwrap.dedent(f"""\
        images:
          - name: tiny
            method: boot
            base: {{file: {tiny.disk()}}}
            machine: {{vcpus: 1, memory: 192}}
            configure:
              - shell: echo first >> /srv/first
              - files: [{{content: "{marker}", path: /etc/imageflow-test, mode: "0600"}}]
              - shell: |
                  cat /etc/imageflow-test > /srv/last
            verify:
              - shell: test "$(cat /srv/last)" = {marker} && test "$(sort -u /srv/first)" = first
            on_failure: {more.get("on_failure", "pause")}
        """)
    )
    return file


STEPS = [
    "prepare-machine",
    "fetch-base",
    "boot-machine",
    "await-ssh",
    "configure-01-shell",
    "configure-02-files",
    "configure-03-shell",
    "seal",
    "stop-machine",
    "snapshot-machine",
    "verify-image",
    "describe-image",
    "delete-machine",
    "publish-image",
    "remove-workspace",
]
ON_MACHINE = STEPS[4:7]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[MachineSite]:
    with MachineSite(tmp_path, lease=1.0) as site:
        yield site


def _create(site: MachineSite, **more: Any) -> Build:
    [submission] = site.service.submit(recipe(site.folder, **more))
    assert submission.verdict == "created", submission
    return submission.build


def _succeeded(site: MachineSite, build: Build) -> None:
    done = site.service.build(build.id)
    assert done.state is BuildState.SUCCEEDED, (done.error, done.hint, site.log(build))
    assert done.digest is not None
    site.service.images.verify(done.digest, Control())
    site.nothing_left()


@pytest.mark.sliced(of=1)
def test_the_steps(tmp_path: Path) -> None:
    """Names are stored contracts: never rename one."""
    assert [
        name for name, _title in outline("boot", {"configure": [{"shell": {}}, {"files": []}, {"shell": {}}]}).steps
    ] == STEPS


@pytest.mark.parametrize("moment", ["in:{}:0", "in:{}:0.4", "after:{}"])
def test_killed_in_every_step_of_one_build(site: MachineSite, moment: str) -> None:
    """A worker for each step, each dies in it; the machine is adopted by all of them: it boots once."""
    build = _create(site)
    for step in STEPS:
        code = site.worker("idle", moment.format(step), module="tests.small.bomb").wait(120)
        assert code == -signal.SIGKILL, (step, site.worker_log())
    site.run_worker(seconds=120)
    _succeeded(site, build)
    assert len(site.processes(build)) == 1, site.log(build)
    attempts = {name: attempt for name, attempt, _state in site.states(build)}
    assert max(attempts.values()) <= 2, attempts


@pytest.mark.parametrize("step", STEPS[3:9])
def test_qemu_is_killed(site: MachineSite, step: str) -> None:
    build = _create(site)
    code = site.worker("idle", f"after:{step}", module="tests.small.bomb").wait(120)
    assert code == -signal.SIGKILL, site.worker_log()
    site.kill_machine(build)
    site.run_worker(seconds=200)
    _succeeded(site, build)


def test_qemu_is_killed_under_a_running_worker(site: MachineSite) -> None:
    build = _create(site)
    site.worker()
    for step in (*ON_MACHINE, "verify-image"):
        role = "verify" if step == "verify-image" else "main"
        site.await_that(lambda step=step: site.running(build, step), 90)
        if (pid := site.pid(build, role)) is not None:
            with contextlib.suppress(ProcessLookupError):  # it may just have ended
                os.kill(pid, signal.SIGKILL)
    site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED, seconds=200)
    site.await_that(lambda: site.service.board.job_count == 0)
    _succeeded(site, build)


@pytest.mark.parametrize(
    "step", ["fetch-base", "boot-machine", "configure-02-files", "seal", "verify-image", "publish-image"]
)
def test_killed_then_aborted(site: MachineSite, step: str) -> None:
    build = _create(site)
    assert site.worker("idle", f"after:{step}", module="tests.small.bomb").wait(120) == -signal.SIGKILL
    site.service.abort(build.id)
    reached = STEPS.index(step) >= STEPS.index("boot-machine")  # else there is nothing of that step's to revert
    code = site.worker("idle", "revert:boot-machine", module="tests.small.bomb").wait(60)
    assert code == (-signal.SIGKILL if reached else 0), site.worker_log()
    site.run_worker(seconds=60)
    assert site.service.build(build.id).state is BuildState.ABORTED
    site.service.reap()
    assert site.service.store.list() == []
    site.nothing_left()


def test_a_failed_step_keeps_the_machine_and_resume_goes_on_in_it(site: MachineSite) -> None:
    file = recipe(site.folder)
    file.write_text(
        file.read_text().replace("cat /etc/imageflow-test >", "test -e /srv/mended && cat /etc/imageflow-test >")
    )
    [submission] = site.service.submit(file)
    build = submission.build
    site.run_worker()
    paused = site.service.build(build.id)
    assert (paused.state, paused.step) == (BuildState.PAUSED, "configure-03-shell")
    pid = site.pid(build)
    assert pid is not None
    site.on_machine(build, "touch /srv/mended")
    site.service.resume(build.id)
    site.run_worker()
    _succeeded(site, build)
    assert len(site.processes(build)) == 1
    records = {(step.name, step.attempt): step.state for step in site.service.steps(build.id)}
    assert records["configure-03-shell", 1] is StepState.FAILED
    assert records["configure-03-shell", 2] is StepState.SUCCEEDED
    assert ("configure-02-files", 2) not in records


def test_abort_of_a_paused_build_removes_its_machine(site: MachineSite) -> None:
    file = recipe(site.folder)
    file.write_text(file.read_text().replace("cat /etc/imageflow-test >", "false >"))
    [submission] = site.service.submit(file)
    site.run_worker()
    pid = site.pid(submission.build)
    assert pid is not None
    site.service.abort(submission.build.id)
    site.run_worker()
    assert site.pid(submission.build) is None  # a zombie is init's to reap
    site.nothing_left()


def test_one_changed_line_reuses_the_layers_before_it(site: MachineSite) -> None:
    first = _create(site)
    site.run_worker(seconds=200)
    second = _create(site, marker="two")
    site.run_worker(seconds=200)
    _succeeded(site, first)
    _succeeded(site, second)
    log = site.log(second)
    assert "2 of 4 stages are reused" in log, log
    started = [step for step in site.service.steps(second.id) if step.name == "configure-01-shell"]
    assert started[0].state is StepState.SUCCEEDED
    assert "[configure-01-shell] reused" in log
    plans = site.service.plan(recipe(site.folder, marker="three"))
    assert [(stage.name, stage.verdict) for stage in plans[0].stages] == [
        ("fetch-base", "reused"),
        ("configure-01-shell", "reused"),
        ("configure-02-files", "run"),
        ("configure-03-shell", "run"),
    ]
