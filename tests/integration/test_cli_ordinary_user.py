"""What an ordinary user, without root or sudo, is told before any work begins. Run by root, it becomes one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small.program import ROOT, Program

NOBODY = 65534
RECIPE = """\
images:
  - name: tiny
    method: dib
    dib: {elements: [tiny], skip-base: true}
"""
WHY = "diskimage-builder needs root: it mounts file systems and attaches loop devices"


@pytest.fixture
def home() -> Iterator[Path]:
    """Of somebody who is not root; pytest's folders are closed to others, and each run of it closes them again."""
    with tempfile.TemporaryDirectory(prefix="imageflow-ordinary-") as folder:
        os.chmod(folder, 0o755)
        home = Path(folder, "home")
        home.mkdir()
        yield home


@pytest.fixture
def program(home: Path) -> Program:
    """imageflow, started by a user who is not root, with a state folder and a recipe of its own."""
    (home / "recipe.yaml").write_text(RECIPE)
    elements = {"OS_DIB__ELEMENTS_PATH": str(ROOT / "tests" / "recipes" / "elements"), "HOME": str(home)}
    made = Program(home / "state", env=elements)
    if os.geteuid() == 0:
        shutil.chown(home, NOBODY, NOBODY)
        made.argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *made.argv]
    return made


def test_a_plan_says_what_needs_root(program: Program) -> None:
    done = program.run("recipe", "plan", str(program.state_dir.with_name("recipe.yaml")))
    [line] = [line for line in done.stderr.splitlines() if WHY in line]
    assert line.startswith("images of the method dib: ") and "run imageflow as root" in line
    assert "tiny (dib): build" in done.stdout


def test_a_build_here_is_refused_before_it_exists(program: Program) -> None:
    done = program.run("build", "create", str(program.state_dir.with_name("recipe.yaml")), "--wait", expect=1)
    assert f"tiny: {WHY}" in done.stderr and "run imageflow as root" in done.stderr
    assert program.json("build", "list") == []


def test_serve_says_at_its_start_what_needs_root(program: Program) -> None:
    process = program.start("serve", "--listen", "none", stdout=subprocess.DEVNULL)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if " serves, " in line:
            process.terminate()
    assert process.wait(60) == 0
    [line] = [line for line in said if WHY in line]
    assert "WARNING" in line and "run imageflow as root" in line


def test_the_demo_says_first_what_needs_root(home: Path, program: Program) -> None:
    """A sudo that gives nothing, as on a host where this user may not use it."""
    sudo = home.parent / "bin" / "sudo"
    sudo.parent.mkdir()
    sudo.write_text("#!/bin/sh\nexit 1\n")
    sudo.chmod(0o755)
    before = program.argv[: program.argv.index("--clear-groups") + 1] if os.geteuid() == 0 else []
    env = {**program.env, "PATH": f"{sudo.parent}:{os.environ['PATH']}"}
    command = [*before, str(ROOT / "etc" / "demo"), "--root"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "diskimage-builder needs root" in line and "Run 'make demo' as root" in line
