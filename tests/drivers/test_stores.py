"""The directory store keeps what every store promises."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from imageflow import config
from imageflow.stores import ImageRef, Store
from imageflow.stores.directory import DirectoryStore
from tests.contracts.stores import Rig, StoreContract, damage


class DirectoryRig:
    """A directory below the test's own folder."""

    shares = True

    def __init__(self, folder: Path) -> None:
        self._config = dataclasses.replace(config.load(state_dir=str(folder)), store_path=folder / "images")

    def store(self) -> Store:
        return DirectoryStore(self._config)

    def damage(self, ref: ImageRef, name: str, how: str) -> None:
        path = Path(ref.path).with_name(name)
        path.chmod(0o644)
        if how == "remove":
            path.unlink()
        else:
            damage(path, how)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return DirectoryRig(tmp_path / "rig")


class TestDirectoryStore(StoreContract):
    pass


def test_the_driver_is_an_entry_point_and_cheap_to_import() -> None:
    from importlib.metadata import entry_points

    assert {point.name: point.load() for point in entry_points(group="imageflow.stores")}["directory"] is DirectoryStore
    code = "import sys, imageflow.stores.directory; sys.exit('taskflow' in sys.modules or 'sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
