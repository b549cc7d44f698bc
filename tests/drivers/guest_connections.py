"""Connections to guests over a real sshd, as root and as a user with sudo; they leave no process behind."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from imageflow.control import Control
from imageflow.guest import connect
from imageflow.guest.connect import Connection
from tests.drivers.sshguest import SshGuest, ssh_guest


def silent(_line: str) -> None:
    pass


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
def connection(request: pytest.FixtureRequest, control: Control) -> Iterator[Connection]:
    used: SshGuest = request.getfixturevalue("guest" if request.param == "root" else "user_guest")
    with connect.connect(used.access, control=control, log=silent) as made:
        yield made
    assert used.marked() == []


@pytest.fixture
def root(guest: SshGuest, control: Control) -> Iterator[Connection]:
    with connect.connect(guest.access, control=control, log=silent) as made:
        yield made
    assert guest.marked() == []
