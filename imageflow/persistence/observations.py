"""What listeners saw last, and how often something was refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import sqlalchemy as sa

from imageflow.persistence.tables import observations, refusals
from imageflow.persistence.upsert import insert_or_update


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def seen(conn: sa.Connection, name: str) -> tuple[str, float] | None:
    """The value of this name when it was last seen, and when that was."""
    row = conn.execute(
        sa.select(observations.c.value, observations.c.time).where(observations.c.digest == _digest(name))
    ).first()
    return (row.value, row.time) if row else None


def see(conn: sa.Connection, name: str, value: str, now: float) -> None:
    """Remember a value."""
    values = {"digest": _digest(name), "name": name, "value": value, "time": now}
    insert_or_update(conn, observations, values, ["digest"], {"value": value, "time": now})


def refused(conn: sa.Connection, counts: Mapping[tuple[str, str], int], now: float) -> None:
    """Add to the counts of (endpoint, reason)."""
    for (endpoint, reason), count in sorted(counts.items()):
        values = {"endpoint": endpoint[:64], "reason": reason[:64], "count": count, "last": now}
        change = {"count": refusals.c.count + count, "last": now}
        insert_or_update(conn, refusals, values, ["endpoint", "reason"], change)


def refusals_of(conn: sa.Connection) -> list[tuple[str, str, int, float]]:
    """(endpoint, reason, count, when last)."""
    columns = (refusals.c.endpoint, refusals.c.reason, refusals.c.count, refusals.c.last)
    query = sa.select(*columns).order_by(refusals.c.endpoint, refusals.c.reason)
    return [(row[0], row[1], row[2], row[3]) for row in conn.execute(query)]
