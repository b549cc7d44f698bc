"""Rows that any test of the database may write and read: conductors."""

from __future__ import annotations

import sqlalchemy as sa

from imageflow.persistence.database import Database
from imageflow.persistence.tables import conductors as table


def add(conn: sa.Connection, name: str) -> None:
    conn.execute(sa.insert(table).values(name=name, host="h", pid=1, started=1.0, until=2.0, running=0))


def names(db: Database) -> list[str]:
    with db.read() as conn:
        return sorted(conn.execute(sa.select(table.c.name)).scalars())
