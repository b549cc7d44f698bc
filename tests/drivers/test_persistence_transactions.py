"""Transactions on each kind of database: the clock that they share, and the errors of the work in them."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from imageflow.errors import ImageflowError
from imageflow.persistence import conductors
from imageflow.persistence.database import Database
from tests.drivers.conductor_rows import add, names
from tests.servers.services import PASSWORD


def test_the_clock_is_now_and_moves(database: Database) -> None:
    def look() -> float:
        with database.begin() as conn:
            return float(conn.execute(sa.select(database.now())).scalar_one())

    first = look()
    assert abs(first - time.time()) < 5
    assert look() > first


def test_errors_of_the_work_pass_unchanged_and_roll_back(database: Database) -> None:
    def work(conn: sa.Connection) -> None:
        add(conn, "x")
        raise ImageflowError("mine")

    with pytest.raises(ImageflowError, match="mine"):
        database.transact(work, patience=5)
    assert names(database) == []


def test_errors_show_no_row(database: Database) -> None:
    database.transact(lambda conn: add(conn, PASSWORD))
    with pytest.raises(sa.exc.IntegrityError) as caught:
        database.transact(lambda conn: add(conn, PASSWORD))
    assert PASSWORD not in str(caught.value).splitlines()[-1]


def test_conductors_live_by_the_clock_of_the_database(database: Database) -> None:
    from imageflow.model import Conductor

    me = Conductor(name="me", host="h", pid=7, started=1.0, until=0.0)
    with database.begin() as conn:
        conductors.beat(conn, me, lease=60)
        conductors.beat(conn, Conductor(name="late", host="h", pid=8, started=2.0, until=0.0), lease=-1)
    with database.begin() as conn:
        assert [c.name for c in conductors.living(conn)] == ["me"]
        conductors.beat(conn, Conductor(name="late", host="h", pid=8, started=2.0, until=0.0, running=3), lease=60)
    with database.begin() as conn:
        assert [(c.name, c.running) for c in conductors.living(conn)] == [("me", 0), ("late", 3)]
        conductors.remove(conn, "me")
        conductors.beat(conn, Conductor(name="late", host="h", pid=8, started=2.0, until=0.0), lease=-90000)
        conductors.forget_dead(conn)
    assert names(database) == []
