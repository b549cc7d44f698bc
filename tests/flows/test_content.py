"""The content digest of versions, seen to hold on real builds: a forced build of the same is the same content."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imageflow.model import Build, BuildState, Version
from tests.drivers.machine import need_loops
from tests.guests import tiny
from tests.small.machines import MachineSite
from tests.small.site import Site

RECIPES = Path(__file__).parents[1] / "recipes"
pytestmark = [pytest.mark.machine(seconds=90), pytest.mark.sliced(group="long builds"), pytest.mark.timeout(600)]


def build(site: Site, file: Path, *, force: bool = True) -> Version:
    """Build the recipe's image; -> the new version."""
    [submission] = site.service.submit(file, force=force)
    assert submission.verdict == "created", submission
    site.run_worker(seconds=250)
    return version(site, submission.build)


def version(site: Site, wanted: Build) -> Version:
    done = site.service.build(wanted.id)
    assert done.state is BuildState.SUCCEEDED, (done.error, site.service.log_path(done.id).read_text())
    return site.service.images.version(f"{done.image}@{done.digest}")


def manifest(version: Version) -> dict[str, object]:
    [file] = [artifact.name for artifact in version.artifacts if artifact.format == "manifest"]
    found: dict[str, object] = json.loads((Path(version.path).parent / file).read_text())
    return found


def test_a_static_image_that_is_built_again(tmp_path: Path) -> None:
    need_loops()
    shutil.copytree(RECIPES, tmp_path / "recipes")
    file = tmp_path / "recipes" / "tiny.yaml"
    with Site(tmp_path) as site:
        one, two = build(site, file), build(site, file)
        assert one.build_id != two.build_id
        assert one.content == two.content == manifest(one)["content"]
        assert one.content is not None and len(one.content) == 64
        (tmp_path / "recipes/motd").write_text("another message\n")
        three = build(site, file, force=False)
        (tmp_path / "recipes/motd").write_bytes((RECIPES / "motd").read_bytes())
        file.write_text(file.read_text().replace('mode: "0640"', 'mode: "0644"'))
        four = build(site, file, force=False)
        assert len({one.content, three.content, four.content}) == 3
        shown = subprocess.run(
            [
                sys.executable,
                "-m",
                "imageflow.cli",
                "--config-file",
                site.file,
                "image",
                "show",
                "-f",
                "json",
                f"tiny@{four.digest}",
            ],
            capture_output=True,
            check=True,
        )
        assert json.loads(shown.stdout)["content"] == four.content


def recipe(folder: Path, line: str) -> Path:
    file = folder / "machine.yaml"
    file.write_text(
        f"images: [{{name: it, method: boot, base: {{file: {tiny.disk()}}}, machine: {{vcpus: 2, memory: 192}},"
        f" configure: [{{shell: '{line}'}}]}}]\n"
    )
    return file


def test_an_image_of_a_machine_that_is_built_again(tmp_path: Path) -> None:
    """Another machine id, other host keys, other times; and its disk is never the same."""
    with MachineSite(tmp_path) as site:
        file = recipe(tmp_path, "echo one > /srv/one")
        one, two = build(site, file), build(site, file)
        assert one.content == two.content == manifest(one)["content"]
        assert one.content is not None and len(one.content) == 64
        assert one.digest != two.digest
        three = build(site, recipe(tmp_path, "echo two > /srv/one"), force=False)
        assert three.content not in (None, one.content)
