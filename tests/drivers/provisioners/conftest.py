"""Guests that provisioners change: as root, and as a user with sudo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.provisioners.provisioned_guest import Site, provisioned
from tests.drivers.sshguest import ssh_guest


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ssh_guest() as guest, provisioned(guest, tmp_path) as made:
        yield made


@pytest.fixture(params=["root", "builder"])
def any_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with ssh_guest(request.param) as guest, provisioned(guest, tmp_path) as made:
        yield made
