"""A database and a broker for one test of the brokers' listeners; the broker has forgotten the test afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.persistence.database import Database
from tests.integration.broker_site import (
    forget,
)
from tests.services import RabbitMQ


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path}/imageflow.db") as database:
        database.upgrade()
        yield database


@pytest.fixture
def broker(rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    yield rabbitmq
    forget(rabbitmq)


def url_of(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)
