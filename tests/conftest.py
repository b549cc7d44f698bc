"""What every test may use: databases of all three kinds, and a message broker."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from imageflow.persistence.database import Database
from tests.services import MariaDB, PostgreSQL, RabbitMQ, Server, running

pytest_plugins = ["tests.cloud.fixtures"]

KINDS = ("sqlite", "postgresql", "mariadb")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Who ends the run with SIGTERM ends it as Ctrl-C does: what tests have started is stopped."""

    def end(*_: object) -> NoReturn:
        session.shouldstop = "ended by SIGTERM"  # should the test that runs take the interrupt for its own
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    if hasattr(session.config, "workerinput"):
        signal.signal(signal.SIGINT, end)  # how xdist ends its processes; a shell's background jobs ignore it


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


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/state/imageflow.db"
        return
    with request.getfixturevalue(request.param).database() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database of each kind with our tables in it."""
    with Database(database_url) as db:
        db.upgrade()
        yield db
