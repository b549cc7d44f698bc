"""The install method for real: Debian's own installer, unattended, from a remastered ISO to a verified image."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

from imageflow.guest import keys, scrub
from imageflow.host.control import Control
from imageflow.model import BuildState
from tests.guests import ANSWERS, debian_installer
from tests.small.machines import MachineSite

pytestmark = [pytest.mark.machine(seconds=300), pytest.mark.sliced(group="long builds")]

RECIPE = """\
images:
  - name: metal
    method: install
    iso: {{file: {iso}}}
    answers: {answers}
    machine: {{vcpus: 2, memory: 1024, disk: 3}}
    configure:
      - shell: cp /etc/installed-by /srv/by
      - users: [{{name: ops, sudo: false, password: {{secret: ops-password}}}}]
    verify:
      - shell: test "$(cat /srv/by)" = {kind} && test "$(hostname)" = {kind}ed && id ops
      - shell: systemctl is-system-running --wait || systemctl --failed --no-legend | wc -l | grep -qx 0
"""
PASSWORDS = ("correct-horse-4711",)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "answers"),
    [("kickstart", "{kickstart: ks.cfg}"), ("preseed", "{preseed: preseed.cfg}")],
)
def test_debian_installs_itself(tmp_path: Path, kind: str, answers: str) -> None:
    for file in ANSWERS.iterdir():
        shutil.copy(file, tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(textwrap.dedent(RECIPE).format(iso=debian_installer.iso(), answers=answers, kind=kind))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "ops-password").write_text(PASSWORDS[0])
    with MachineSite(tmp_path, lease=20.0, secrets__directory=str(tmp_path / "secrets")) as site:
        [submission] = site.service.submit(recipe)
        build = submission.build
        site.worker()
        site.await_that(lambda: site.running(build, "boot-machine") or site.paused(build), 1200)
        assert not site.paused(build), site.log(build)[-5000:]
        made = keys.make(site.config.builds_dir / build.id / "ssh")
        needles = [made.public.split()[1], made.host_public.split()[1], *PASSWORDS]
        needles += [line for line in made.host_private.read_text().splitlines() if "-----" not in line][1:-1]
        done = site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED, seconds=1200)
        assert done.state is BuildState.SUCCEEDED, (done.error, done.hint, site.log(build)[-5000:])
        site.await_that(lambda: site.service.board.job_count == 0)
        version = site.service.images.verify(f"metal@{done.digest}", Control())
        assert version.packages is not None and version.packages > 100
        raw = tmp_path / "raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", version.path, str(raw)], check=True)
        assert scrub.find(raw, [needle.encode() for needle in needles], Control()) == []
        assert not any(password in site.log(build) for password in PASSWORDS)
        phases = {phase for step in site.service.steps(build.id) for phase, _at in step.phases}
        assert len(phases) >= 3, phases
        site.nothing_left()
