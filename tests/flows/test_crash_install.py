"""The flow install on a tiny installer: killed everywhere, stuck everywhere, two at once."""

from __future__ import annotations

import os
import shutil
import signal
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.compute import MachineState
from imageflow.flight.record import screenshots
from imageflow.host.control import Control
from imageflow.model import Build, BuildState
from tests.guests import ANSWERS, installer
from tests.small.machines import MachineSite

pytestmark = [pytest.mark.machine, pytest.mark.sliced, pytest.mark.timeout(600)]
STEPS = [
    "prepare-machine",
    "fetch-media",
    "remaster-media",
    "boot-installer",
    "await-installed",
    "boot-machine",
    "await-ssh",
    "configure-01-shell",
    "seal",
    "stop-machine",
    "snapshot-machine",
    "verify-image",
    "describe-image",
    "delete-machine",
    "publish-image",
    "remove-workspace",
]


def recipe(folder: Path, kind: str = "", *, name: str = "tiny", line: str = "one", answers: str = "preseed") -> Path:
    """An image that the tiny installer makes; `kind` is one of its faults."""
    for file in ANSWERS.iterdir():
        shutil.copy(file, folder)
    to = folder / f"{name}.yaml"
    to.write_text(
        textwrap.dedent(f"""\
        images:
          - name: {name}
            method: install
            iso: {{file: {installer.iso(kind)}}}
            answers: {{{answers}: {"ks.cfg" if answers == "kickstart" else "preseed.cfg"}}}
            machine: {{vcpus: 1, memory: 256, disk: 1}}
            configure:
              - shell: echo {line} > /srv/line
            verify:
              - shell: test "$(cat /srv/line)" = {line} && test "$(cat /etc/installed-by)" = {answers}
        """)
    )
    return to


@pytest.fixture
def site(tmp_path: Path) -> Iterator[MachineSite]:
    with MachineSite(tmp_path, lease=1.0) as site:
        yield site


def _create(site: MachineSite, kind: str = "", **more: str) -> Build:
    [submission] = site.service.submit(recipe(site.folder, kind, **more))
    assert submission.verdict == "created", submission
    return submission.build


def _succeeded(site: MachineSite, build: Build) -> None:
    done = site.service.build(build.id)
    assert done.state is BuildState.SUCCEEDED, (done.error, done.hint, site.log(build))
    assert done.digest is not None
    site.service.images.verify(done.digest, Control())


def test_a_kickstart_installs(site: MachineSite) -> None:
    build = _create(site, answers="kickstart")
    site.run_worker(seconds=200)
    _succeeded(site, build)
    site.nothing_left()


@pytest.mark.parametrize("moment", ["in:{}:0", "in:{}:0.4", "after:{}"])
def test_killed_in_every_step_of_one_build(site: MachineSite, moment: str) -> None:
    """The installer runs once, whoever watches it, and the installed system boots once."""
    build = _create(site)
    for step in STEPS:
        code = site.worker("idle", moment.format(step), module="tests.small.bomb").wait(120)
        assert code == -signal.SIGKILL, (step, site.worker_log())
    site.run_worker(seconds=200)
    _succeeded(site, build)
    site.nothing_left()
    assert len(site.processes(build)) == 2, site.log(build)  # from the CD, then from its disk
    assert max(attempt for _name, attempt, _state in site.states(build)) <= 2


def test_qemu_is_killed_while_it_installs(site: MachineSite) -> None:
    build = _create(site)
    site.worker()
    site.await_that(lambda: site.running(build, "await-installed") and site.pid(build), 90)
    site.kill_machine(build)
    site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED, seconds=200)
    site.await_that(lambda: site.service.board.job_count == 0)
    _succeeded(site, build)
    site.nothing_left()


CAUSES = {
    "dialog": "dialog",
    "prompt": "dialog",
    "panic": "panic",
    "init": "panic",
    "poweroff": "not-installed",
    "reboot": "not-installed",
    "hang": "stall",
}


@pytest.mark.parametrize("kind", CAUSES)
def test_an_installer_that_does_not_install_is_recognised(tmp_path: Path, kind: str) -> None:
    with MachineSite(tmp_path, lease=2.0, install__stall="12", install__dialog="5", install__screenshots="2") as site:
        build = _create(site, kind)
        began = time.monotonic()
        site.run_worker(seconds=150)
        paused = site.service.build(build.id)
        assert (paused.state, paused.step) == (BuildState.PAUSED, "await-installed"), site.log(build)
        assert f"[await-installed] {CAUSES[kind]}: " in site.log(build), site.log(build)
        assert paused.error
        assert paused.hint is not None and "build screenshot" in paused.hint
        assert time.monotonic() - began < 120
        assert site.service.compute.state(f"{build.id}-main") is not MachineState.ABSENT  # kept, to be looked at
        pictures = screenshots(site.config.records_dir / build.id, f"{build.id}-main")
        if kind != "reboot":  # it may be off before the first picture
            assert pictures and pictures[-1].read_bytes().startswith(b"\x89PNG")
        site.service.abort(build.id)
        site.run_worker()
        site.nothing_left()


def test_a_hopeless_installer_starts_anew_when_it_is_resumed(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=2.0) as site:
        build = _create(site, "poweroff")
        site.run_worker(seconds=150)
        site.service.resume(build.id)
        site.run_worker(seconds=150)
        assert site.service.build(build.id).state is BuildState.PAUSED
        assert len(site.processes(build)) == 2
        site.service.abort(build.id)
        site.run_worker()
        site.nothing_left()


def test_a_changed_line_does_not_install_again(site: MachineSite) -> None:
    _create(site)
    site.run_worker(seconds=200)
    again = _create(site, line="two")
    began = time.monotonic()
    site.run_worker(seconds=200)
    _succeeded(site, again)
    assert "1 of 2 stages are reused" in site.log(again)
    assert len(site.processes(again)) == 1
    assert time.monotonic() - began < 100


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=5.0, max_builds="2") as site:
        builds = [_create(site, name=f"tiny-{number}", line=f"line-{number}") for number in (1, 2)]
        site.worker()
        site.await_that(lambda: all(site.pid(build) for build in builds), 60)
        pids = {site.pid(build) for build in builds}
        ports = {site.service.compute.address(f"{build.id}-main") for build in builds}
        assert len(pids) == len(ports) == 2
        for build in builds:
            site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED, seconds=300)
        site.await_that(lambda: site.service.board.job_count == 0)
        for build in builds:
            _succeeded(site, build)
        site.nothing_left()


def test_queued_ones_respect_the_memory_bound(tmp_path: Path) -> None:
    """Ten builds on a host with room for two machines: never more than two run."""
    with MachineSite(tmp_path, lease=5.0, max_builds="10", qemu__max_memory="1100") as site:
        builds = [_create(site, "poweroff", name=f"tiny-{number}", line=f"line-{number}") for number in range(10)]
        site.worker()
        most = 0
        waiting = {build.id for build in builds}
        end = time.monotonic() + 400
        while waiting and time.monotonic() < end:
            running = [pid for build in builds if (pid := site.pid(build)) is not None]
            most = max(most, len(running))
            for build_id in list(waiting):
                if site.service.build(build_id).state is BuildState.PAUSED:
                    waiting.discard(build_id)
            time.sleep(0.05)
        assert waiting == set()
        assert 1 <= most <= 2, most
        assert any("wait" in site.log(build) for build in builds)
        for build in builds:
            site.service.abort(build.id)
        site.await_that(lambda: site.service.board.job_count == 0)
        site.nothing_left()
        assert os.path.isdir(site.config.state_dir)
