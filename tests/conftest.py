"""Fixtures for every test: databases of all three kinds, and a message broker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from imageflow.persistence import schema
from imageflow.persistence.database import Database
from tests.servers.services import MariaDB, PostgreSQL, RabbitMQ, Server, running

# The tests' own servers are on loopback, where no URL of a recipe leads unless it is allowed.
os.environ["OS_DOWNLOADS__ALLOW"] = "mirrors, 127.0.0.1, ::1"

pytest_plugins = ["tests.cloud.fixtures", "tests.scheduling", "tests.slices", "tests.examples"]

KINDS = ("sqlite", "postgresql", "mariadb")


def pytest_sessionstart(session: pytest.Session) -> None:
    """SIGTERM ends the run as Ctrl-C does, so that what tests have started is stopped."""

    def end(*_: object) -> NoReturn:
        session.shouldstop = "ended by SIGTERM"  # in case the running test catches the interrupt
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    if hasattr(session.config, "workerinput"):
        signal.signal(signal.SIGINT, end)  # xdist ends its processes so; a shell's background jobs ignore it


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A private PostgreSQL server."""
    with running(PostgreSQL) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """A private MariaDB server."""
    with running(MariaDB) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A private RabbitMQ; tests that stop it start it again."""
    with running(RabbitMQ) as server:
        yield server


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """That broker, for a test that uses queues and exchanges of the usual names: it has none of them before and after."""
    rabbitmq.forget()
    yield rabbitmq
    rabbitmq.forget()


@pytest.fixture(params=KINDS[1:])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind; running again afterwards, whatever the test did to it."""
    found: Server = request.getfixturevalue(request.param)
    yield found
    if found._process is None:
        found.start()


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state/imageflow.db"
        return
    with request.getfixturevalue(request.param).database() as url:
        yield url


@pytest.fixture
def database_pids(request: pytest.FixtureRequest, database_url: str) -> list[int]:
    """The server's process, if that database has one: its processor time counts as ours, too, see tests/cpu.py."""
    kind = database_url.partition("+")[0].partition(":")[0].replace("mysql", "mariadb")
    return [] if kind == "sqlite" else [request.getfixturevalue(kind).pid]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database of each kind with our tables in it."""
    with Database(database_url) as db:
        schema.upgrade(db)
        yield db
