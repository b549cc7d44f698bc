"""Places for machines of the driver qemu, with guests or nothing to boot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.compute_site import QemuSite, Site, site


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
