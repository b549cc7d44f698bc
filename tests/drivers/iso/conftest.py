"""ISOs of vendors, made once for a module, and a small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drivers import vendor_iso
from tests.drivers.iso.remastered_iso import plain
from tests.drivers.machine import need
from tests.drivers.vendor_iso import Vendor


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    vendor_iso.need_iso_tools()
    return vendor_iso.debian(tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="module")
def fedora(tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    vendor_iso.need_iso_tools()
    return vendor_iso.fedora(tmp_path_factory.mktemp("fedora"))


@pytest.fixture(scope="module")
def ubuntu(tmp_path_factory: pytest.TempPathFactory) -> Vendor:
    vendor_iso.need_iso_tools()
    return vendor_iso.ubuntu(tmp_path_factory.mktemp("ubuntu"))


@pytest.fixture
def small(tmp_path: Path) -> Vendor:
    """Isolinux only, no disk."""
    need("xorriso")
    return plain(tmp_path)
