"""A place for machines of each driver that runs without a cloud; modules with another one have their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.compute_site import Site, site

AWKWARD = "a long, long way to Söller " + "x" * 90  # socket names have 107 bytes, commas mean something to QEMU


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.machine(seconds=2))])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / AWKWARD
    folder.mkdir()
    with site(request.param, folder) as made:
        yield made
