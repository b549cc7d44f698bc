"""Steps that reboot the machine: meant or by surprise, with workers that die, none is repeated for ever."""

from __future__ import annotations

import signal
import textwrap
from pathlib import Path

import pytest

from imageflow.model import Build, BuildState
from tests.guests import tiny
from tests.small.machines import MachineSite

pytestmark = [pytest.mark.machine(seconds=40), pytest.mark.sliced(group="long builds"), pytest.mark.timeout(300)]


def create(site: MachineSite, configure: str) -> Build:
    """Queue a build of the tiny guest."""
    file = site.folder / "tiny.yaml"
    image = f"name: tiny\nmethod: boot\nbase: {{file: {tiny.disk()}}}\nmachine: {{vcpus: 1, memory: 192}}\n"
    image += "configure:\n" + textwrap.indent(textwrap.dedent(configure), "  ")
    file.write_text("images:\n  - " + image.replace("\n", "\n    ").rstrip() + "\n")
    [submission] = site.service.submit(file)
    assert submission.verdict == "created", submission
    return submission.build


def test_a_step_reboots_and_the_next_one_runs_in_the_rebooted_machine(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=5.0) as site:
        build = create(
            site,
            """\
            - shell: {run: "echo 1 >> /srv/runs; reboot; sleep 60", reboot: true}
            - shell: "touch /run/here; [ $(wc -l < /srv/runs) = 1 ]"
            - shell: {run: "echo 2 >> /srv/runs", reboot: true}
            - shell: "[ ! -e /run/here ]; [ $(wc -l < /srv/runs) = 2 ]; touch /run/here"
            - reboot: {}
            - shell: "[ ! -e /run/here ]"
            """,
        )
        site.run_worker(seconds=250)
        done = site.service.build(build.id)
        assert done.state is BuildState.SUCCEEDED, site.log(build) + site.worker_log()
        assert [step.attempt for step in site.service.steps(build.id) if step.name.startswith("configure")] == [1] * 6
        assert site.log(build).count("the machine has rebooted") == 3


def test_a_script_that_fails_does_not_pass_as_a_reboot(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=5.0) as site:
        build = create(site, '- shell: {run: "echo no >&2; exit 3", reboot: true}\n')
        site.run_worker(seconds=100)
        paused = site.service.build(build.id)
        assert paused.state is BuildState.PAUSED
        assert "exit code 3" in str(paused.error), paused.error
        assert "rebooted" not in site.log(build)


def test_a_reboot_by_surprise_is_told_and_a_resume_does_not_repeat_it_for_ever(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=5.0) as site:
        build = create(
            site,
            """\
            - shell: "echo 1 >> /srv/runs; reboot; sleep 60"
            - shell: "[ $(wc -l < /srv/runs) = 2 ]"
            """,
        )
        site.run_worker(seconds=100)
        paused = site.service.build(build.id)
        assert (paused.state, paused.step) == (BuildState.PAUSED, "configure-01-shell")
        assert "the machine rebooted in this step" in str(paused.error)
        assert "reboot: true" in str(paused.hint)
        site.service.resume(build.id)
        site.run_worker(seconds=200)
        done = site.service.build(build.id)
        assert done.state is BuildState.SUCCEEDED, site.log(build)
        assert "the machine has rebooted in this step: the step is done" in site.log(build)


def test_a_worker_that_dies_after_the_reboot_does_not_reboot_again(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=1.0) as site:
        build = create(
            site,
            """\
            - shell: {run: "echo 1 >> /srv/runs; reboot; sleep 60", reboot: true}
            - shell: "[ $(wc -l < /srv/runs) = 1 ]"
            """,
        )
        worker = site.worker()
        name = f"{build.id}-main"
        site.await_that(lambda: site.service.compute.console(name).count(b"Linux version") == 2, 60)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        site.run_worker(seconds=200)
        done = site.service.build(build.id)
        assert done.state is BuildState.SUCCEEDED, site.log(build)
