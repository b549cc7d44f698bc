"""A database for one test of a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.persistence import schema
from imageflow.persistence.database import Database


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path}/imageflow.db") as database:
        schema.upgrade(database)
        yield database
