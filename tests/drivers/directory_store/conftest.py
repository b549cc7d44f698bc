"""Where the store's images are, and where a build leaves its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture(params=["same file system", "another file system"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where the build leaves its files: linked into the store from here, copied from there."""
    if request.param == "same file system":
        yield tmp_path / "work"
        return
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    folder = shm / f"imageflow-test-{os.getpid()}"
    try:
        yield folder
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink()
        folder.rmdir()
