"""Steps that take the build's way into its machine away."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imageflow.model import BuildState
from tests.flows.test_reboots import create
from tests.small.machines import MachineSite

pytestmark = [pytest.mark.machine(seconds=40), pytest.mark.sliced(of=3), pytest.mark.timeout(300)]

LISTENER = "for each in $(pidof dropbear); do [ $(awk '{print $4}' /proc/$each/stat) != 1 ] || kill $each; done"


def test_own_keys_in_the_image_do_not_end_the_build(tmp_path: Path) -> None:
    """Over a reboot, and from its last layer after the machine has died; sealing leaves what the recipe means."""
    with MachineSite(tmp_path, lease=5.0) as site:
        build = create(
            site,
            """\
            - files: [{content: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB ops\\n", path: /root/.ssh/authorized_keys, mode: "0600"}]
            - shell: "rm /etc/ssh/ssh_host_*; echo next"
            - reboot: {}
            - shell: echo after
            - shell: "cp /root/.ssh/authorized_keys /srv/seen"
            """,
        )
        site.run_worker(seconds=250)
        done = site.service.build(build.id)
        assert done.state is BuildState.SUCCEEDED, site.log(build)
        assert "put back until the machine is sealed: the build's key" in site.log(build)
        assert "put back until the machine is sealed: the machine's host key" in site.log(build)


def test_a_stopped_server_is_told_within_seconds(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=5.0) as site:
        build = create(site, f"- shell: |\n    rm /bin/dropbearconvert\n    {LISTENER}\n- shell: echo next\n")
        worker = site.worker()
        site.await_that(lambda: site.running(build, "configure-01-shell"), 100)
        began = time.monotonic()
        site.await_that(lambda: site.paused(build), 100)
        assert time.monotonic() - began < 60
        paused = site.service.build(build.id)
        assert paused.step == "configure-01-shell"
        assert "no SSH server answers in the machine any more" in str(paused.error), paused.error
        worker.kill()
        worker.wait()


def test_a_step_that_ends_every_session_is_told_within_seconds(tmp_path: Path) -> None:
    with MachineSite(tmp_path, lease=5.0) as site:
        build = create(site, "- shell: echo one\n- shell: kill $(pidof dropbear)\n")
        worker = site.worker()
        site.await_that(lambda: site.running(build, "configure-02-shell"), 150)
        began = time.monotonic()
        site.await_that(lambda: site.paused(build), 120)
        assert time.monotonic() - began < 90
        paused = site.service.build(build.id)
        assert paused.step == "configure-02-shell"
        assert "no SSH server answers in the machine any more" in str(paused.error), site.log(build)
        worker.kill()
        worker.wait()
