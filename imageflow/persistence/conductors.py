"""The conductors and their heartbeats: which ones are alive now."""

from __future__ import annotations

from dataclasses import fields

import sqlalchemy as sa

from imageflow.model import Conductor
from imageflow.persistence import leases
from imageflow.persistence.database import clock
from imageflow.persistence.tables import conductors
from imageflow.persistence.upsert import insert_or_update

_COLUMNS = [conductors.c[f.name] for f in fields(Conductor)]


def beat(conn: sa.Connection, conductor: Conductor, lease: float) -> None:
    """Extend this conductor's life by `lease` seconds, by the database's clock; its `until` is ignored."""
    until = clock(conn.dialect.name) + lease
    values = {f.name: getattr(conductor, f.name) for f in fields(Conductor)} | {"until": until}
    insert_or_update(conn, conductors, values, key=["name"], change={"until": until, "running": conductor.running})


def living(conn: sa.Connection, host: str = "") -> list[Conductor]:
    """The conductors with a valid heartbeat, the oldest first; those of `host`, which is ours, only if their process lives."""
    query = sa.select(*_COLUMNS).where(conductors.c.until >= clock(conn.dialect.name))
    found = [Conductor(**row._mapping) for row in conn.execute(query.order_by(conductors.c.started))]
    return [one for one in found if not leases.is_dead(one.name, host)]


def remove(conn: sa.Connection, name: str) -> None:
    """Remove a conductor that has ended; an unknown one is fine."""
    conn.execute(sa.delete(conductors).where(conductors.c.name == name))


def forget_dead(conn: sa.Connection, age: float = 86400.0) -> None:
    """Remove conductors that have been silent for `age` seconds."""
    conn.execute(sa.delete(conductors).where(conductors.c.until < clock(conn.dialect.name) - age))
