"""What the tests of this machine's parts ask before they start: a missing part skips here and fails under CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def need(*programs: str, root: bool = False) -> None:
    """Skip (under CI=true: fail) when a program is missing, or root is needed and we aren't."""
    missing = [program for program in programs if shutil.which(program) is None]
    if root and os.geteuid() != 0:
        missing.append("root")
    if missing:
        say = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        say(f"missing: {', '.join(missing)}")


def need_loops() -> None:
    """Skip (under CI=true: fail) where loop devices can't be made."""
    need("losetup", "partx", root=True)
    if not Path("/dev/loop-control").exists():
        need("loop devices")
