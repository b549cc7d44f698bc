"""Guests over a real sshd, and connections to them that leave no process behind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from imageflow.guest import connect
from imageflow.guest.connect import SshConnection
from imageflow.host.control import Control
from tests.drivers.sshguest import SshGuest, silent, ssh_guest


@pytest.fixture
def control() -> Control:
    return Control(time.monotonic() + 60)


@pytest.fixture(scope="module")
def guest() -> Iterator[SshGuest]:
    with ssh_guest() as made:
        yield made


@pytest.fixture(scope="module")
def user_guest() -> Iterator[SshGuest]:
    with ssh_guest("builder") as made:
        yield made


@pytest.fixture
def own_guest() -> Iterator[SshGuest]:
    """One that a test may break."""
    with ssh_guest() as made:
        yield made


@pytest.fixture(params=["root", "builder"])
def connection(request: pytest.FixtureRequest, control: Control) -> Iterator[SshConnection]:
    used: SshGuest = request.getfixturevalue("guest" if request.param == "root" else "user_guest")
    with connect.connect(used.access, control=control, log=silent) as made:
        yield made
    assert used.marked() == []


@pytest.fixture
def root(guest: SshGuest, control: Control) -> Iterator[SshConnection]:
    with connect.connect(guest.access, control=control, log=silent) as made:
        yield made
    assert guest.marked() == []
