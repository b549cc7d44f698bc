"""What is open on this host is said before a machine runs: by `recipe plan`, beside its result, and by `serve`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.small.program import Program

RECIPE = "images: [{name: web, method: boot, base: {file: base.qcow2}, machine: {disk: 1}}]\n"


def test_a_plan_says_that_guests_reach_this_host(tmp_path: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "base.qcow2"), "64M"], check=True)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    program = Program(tmp_path / "state", env={"OS_QEMU__NETWORK": "open", "OS_QEMU__ACCELERATOR": "tcg"})
    done = program.run("recipe", "plan", "-f", "json", str(tmp_path / "recipe.yaml"))
    assert [plan["verdict"] for plan in json.loads(done.stdout)] == ["build"]
    assert "machines: guests reach every service of this host" in done.stderr
    restricted = Program(tmp_path / "state", env={"OS_QEMU__NETWORK": "restricted", "OS_QEMU__ALLOW": "cache.lan:3142"})
    said = restricted.run("recipe", "plan", str(tmp_path / "recipe.yaml")).stderr
    assert "reach cache.lan:3142 at 10.0.2.100 ([qemu] allow)" in said
