"""Places for machines of the driver qemu, with guests or nothing to boot, and the folder and process of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from imageflow.compute.qemu.folder import Folder
from tests.drivers.compute_site import NAME, QemuSite, Site, site


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Site]:
    """Machines with nothing to boot."""
    with site("qemu", tmp_path) as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[QemuSite]:
    folder = tmp_path / ("Gäste, " + "x" * 100)
    folder.mkdir()
    with site("qemu", folder, guests=True) as made:
        assert isinstance(made, QemuSite)
        yield made


def folder_of(place: Site, name: str = NAME) -> Folder:
    return Folder(place.config.machines_dir, name)


def process_of(place: Site, name: str = NAME) -> psutil.Process:
    record = folder_of(place, name).read()
    assert record is not None and record.process is not None
    return psutil.Process(record.process.pid)
