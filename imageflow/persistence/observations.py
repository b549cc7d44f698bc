"""The last values that listeners saw, and the counts of refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import sqlalchemy as sa

from imageflow.persistence.tables import observations, refusals
from imageflow.persistence.upsert import insert_or_update

_CHUNK = 500  # values in one IN (…)


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


def seen(conn: sa.Connection, name: str, *, hold: bool = False) -> tuple[str, float] | None:
    """The last seen value of this name, and when it was seen. `hold`: others wait for the end of this transaction."""
    query = sa.select(observations.c.value, observations.c.time).where(observations.c.digest == _digest(name))
    row = conn.execute(query.with_for_update() if hold else query).first()
    return (row.value, row.time) if row else None


def see(conn: sa.Connection, name: str, value: str, now: float) -> None:
    """Remember a value."""
    values = {"digest": _digest(name), "name": name, "value": value, "time": now}
    insert_or_update(conn, observations, values, ["digest"], {"value": value, "time": now})


def touch(conn: sa.Connection, name: str, now: float) -> None:
    """Somebody still watches this."""
    conn.execute(sa.update(observations).where(observations.c.digest == _digest(name)).values(time=now))


def oldest_kept(conn: sa.Connection, prefix: str, most: int) -> float | None:
    """The moment before which values whose names begin with `prefix` are more than `most`; None: they are not."""
    mine = observations.c.name.startswith(prefix, autoescape=True)
    if conn.execute(sa.select(sa.func.count()).where(mine)).scalar_one() <= most:
        return None
    query = sa.select(observations.c.time).where(mine).order_by(observations.c.time.desc()).offset(most - 1).limit(1)
    return conn.execute(query).scalar()


def forget(conn: sa.Connection, prefix: str, before: float, limit: int = 1000) -> int:
    """Remove values whose names begin with `prefix` and that were last seen before that moment; -> how many."""
    old = sa.select(observations.c.digest).where(
        observations.c.time < before, observations.c.name.startswith(prefix, autoescape=True)
    )
    digests = conn.scalars(old.limit(limit)).all()
    for start in range(0, len(digests), _CHUNK):
        conn.execute(sa.delete(observations).where(observations.c.digest.in_(digests[start : start + _CHUNK])))
    return len(digests)


def forget_refusals(conn: sa.Connection, before: float) -> int:
    """Remove the counts of what was last refused before that moment; -> how many."""
    return conn.execute(sa.delete(refusals).where(refusals.c.last < before)).rowcount


def refused(conn: sa.Connection, counts: Mapping[tuple[str, str], int], now: float) -> None:
    """Add to the counts of (endpoint, reason)."""
    for (endpoint, reason), count in sorted(counts.items()):
        values = {"endpoint": endpoint[:64], "reason": reason[:64], "count": count, "last": now}
        change = {"count": refusals.c.count + count, "last": now}
        insert_or_update(conn, refusals, values, ["endpoint", "reason"], change)


def refusals_of(conn: sa.Connection) -> list[tuple[str, str, int, float]]:
    """(endpoint, reason, count, time of the last one)."""
    columns = (refusals.c.endpoint, refusals.c.reason, refusals.c.count, refusals.c.last)
    query = sa.select(*columns).order_by(refusals.c.endpoint, refusals.c.reason)
    return [(row[0], row[1], row[2], row[3]) for row in conn.execute(query)]
