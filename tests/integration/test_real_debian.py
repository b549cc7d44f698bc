"""The example recipe for real: a Debian by diskimage-builder, its worker killed at three moments of it."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from imageflow.host import removal
from imageflow.host.control import Control
from imageflow.model import BuildState
from tests.small.site import Site

RECIPE = Path(__file__).parents[2] / "etc" / "recipes" / "debian.yaml"
MOMENTS = ("hooks/root.d/", "in_target.d/install.d/", "sudo mkfs")  # bootstrap, packages, the disk with its loop device
pytestmark = [pytest.mark.machine(seconds=900), pytest.mark.slow, pytest.mark.timeout(1800)]


def test_kill_9_at_three_moments_of_a_real_build(tmp_path: Path) -> None:
    with Site(tmp_path, lease=10.0) as site:
        [submission] = site.service.submit(RECIPE, ["debian"])
        build = submission.build
        log = site.service.log_path(build.id)
        for moment in MOMENTS:
            worker = site.worker()
            read = log.stat().st_size if log.exists() else 0

            def seen(moment: str = moment, read: int = read) -> bool:
                return log.exists() and moment in log.read_bytes()[read:].decode("utf-8", "replace")

            site.await_that(seen, 600)
            worker.send_signal(signal.SIGKILL)
            assert worker.wait() == -signal.SIGKILL
            site.await_that(lambda: list(site.children(build)) == [], 30)
        site.run_worker(seconds=1200)

        done = site.service.build(build.id)
        assert done.state is BuildState.SUCCEEDED, (done.error, done.hint)
        version = site.service.images.verify(f"debian@{done.digest}", Control())
        assert version.packages is not None and version.packages > 200
        checked = subprocess.run(["qemu-img", "check", "--output=json", version.path], capture_output=True, check=True)
        assert json.loads(checked.stdout)["check-errors"] == 0
        attempts = [step.attempt for step in site.service.steps(build.id) if step.name == "build-disk"]
        assert attempts == [1, 2, 3, 4]
        assert removal.loops_under(site.config.state_dir) == []
        assert removal.mounts_under(site.config.state_dir) == []
        site.nothing_left()
        [again] = site.service.submit(RECIPE, ["debian"])
        assert again.verdict == "reused"
