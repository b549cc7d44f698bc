"""The boot method for real: every provisioner on a Debian that diskimage-builder made, seen from inside the verify boot."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from imageflow.guest import keys, scrub
from imageflow.host.control import Control
from imageflow.model import BuildState
from tests.small.machines import MachineSite

RECIPE = Path(__file__).parents[1] / "recipes" / "everything"
SECRETS = {"ops-password": "correct-horse-4711", "site-token": "not-to-be-seen-4711"}
pytestmark = [pytest.mark.machine(seconds=900), pytest.mark.slow, pytest.mark.timeout(3600)]


def wheel(folder: Path) -> None:
    """A package that pip can install without any index."""
    about = "greeting-1.0.dist-info"
    with zipfile.ZipFile(folder / "greeting-1.0-py3-none-any.whl", "w") as file:
        file.writestr("greeting.py", "TEXT = 'hello from a wheel'\n")
        file.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "greeting.py,,\n")


def test_every_provisioner_on_a_real_debian(tmp_path: Path) -> None:
    recipe = shutil.copytree(RECIPE, tmp_path / "recipe") / "recipe.yaml"
    wheel(recipe.parent)
    secrets = tmp_path / "secrets"
    secrets.mkdir(mode=0o700)
    for name, value in SECRETS.items():
        (secrets / name).write_text(value)
    with MachineSite(tmp_path, lease=20.0, secrets__directory=str(secrets)) as site:
        [base] = site.service.submit(recipe)
        site.run_worker(seconds=1200)
        assert site.service.build(base.build.id).state is BuildState.SUCCEEDED, site.log(base.build)[-3000:]
        submissions = site.service.submit(recipe)
        assert [submission.verdict for submission in submissions] == ["reused", "created"]
        build = submissions[1].build
        kept: list[bytes] = []
        site.worker()
        site.await_that(lambda: site.running(build, "configure-01-packages") or site.paused(build), 600)
        made = keys.make(site.config.builds_dir / build.id / "ssh")
        kept += [made.public.split()[1].encode(), made.host_public.split()[1].encode()]
        kept += [line.encode() for line in made.host_private.read_text().splitlines() if "-----" not in line][1:-1]
        done = site.await_state(build, BuildState.SUCCEEDED, BuildState.PAUSED, seconds=2400)
        assert done.state is BuildState.SUCCEEDED, (done.error, done.hint, site.log(build)[-3000:])
        site.await_that(lambda: site.service.board.job_count == 0)
        version = site.service.images.verify(f"everything@{done.digest}", Control())
        assert version.packages is not None and version.packages > 200
        raw = tmp_path / "raw"
        subprocess.run(["qemu-img", "convert", "-O", "raw", version.path, str(raw)], check=True)
        assert scrub.find(raw, [*kept, *(value.encode() for value in SECRETS.values())], Control()) == []
        assert not any(value in site.log(build) for value in SECRETS.values())
        site.nothing_left()
