"""Leases: a row with the columns `owner` and `until` belongs to one process for a while, by the database's clock.

Jobs, deliveries, publications and rebuilds use them. `until` is in seconds since the epoch. The owner of a row
renews it; when the owner dies, the lease expires and another one takes it. Each function works in the caller's transaction.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

import sqlalchemy as sa

from imageflow.host import alive
from imageflow.persistence.database import clock

NOBODY = {"owner": None, "until": 0.0}  # the values of a row without an owner


def new_owner(host: str) -> str:
    """A name to hold rows under, for one thing in one process on this host ([DEFAULT] host).

    It is never used twice: rows held under a dead process's name would be taken for one's own. It names the process, so that
    another one on the same host can ask whether it lives, see `is_dead`.
    """
    return f"{host}:{os.getpid()}:{uuid.uuid4().hex[:8]}:{alive.mark()}"


def is_dead(owner: str, host: str) -> bool:
    """Whether a name from `new_owner` is of a process of this host that has ended; False when that can't be known."""
    ours, rest = owner[: len(host) + 1], owner[len(host) + 1 :].split(":")
    return ours == f"{host}:" and len(rest) == 3 and rest[0].isdecimal() and alive.is_gone(int(rest[0]), rest[2])


def is_of_another_boot(owner: str, host: str) -> bool:
    """Whether a name from `new_owner` is of a process of this host that ended when the host was rebooted."""
    rest = owner[len(host) + 1 :].split(":")
    return owner.startswith(f"{host}:") and len(rest) == 3 and not alive.is_of_this_boot(rest[2])


def held(conn: sa.Connection, table: sa.Table) -> list[tuple[str, float, float]]:
    """(owner, until, seconds until then) of every lease in a table that has not expired."""
    now = clock(conn.dialect.name)
    query = sa.select(table.c.owner, table.c.until, (table.c.until - now).label("left")).distinct()
    rows = conn.execute(query.where(table.c.owner.is_not(None), table.c.until >= now))
    return [(row.owner, row.until, row.left) for row in rows]


def expire(conn: sa.Connection, table: sa.Table, owner: str, until: float | None = None) -> int:
    """End the leases of an owner that is dead, those with this `until` or all; -> how many. The rows are free then."""
    now = clock(conn.dialect.name)
    where = [table.c.owner == owner, table.c.until >= now, *([] if until is None else [table.c.until == until])]
    return conn.execute(sa.update(table).where(*where).values(until=now)).rowcount


def due(moment: sa.Column[float], dialect: str) -> sa.ColumnElement[bool]:
    """The condition that a wait until `moment` is over; one of more than a day was written before a clock was set back."""
    now = clock(dialect)
    return sa.or_(moment <= now, moment > now + 86400.0)


def free(table: sa.Table, dialect: str, owner: str | None = None) -> sa.ColumnElement[bool]:
    """The condition that the row is free, its lease has expired, or `owner` holds it. `dialect`: a database's name."""
    conditions = [table.c.owner.is_(None), table.c.until < clock(dialect)]
    return sa.or_(*conditions, *([] if owner is None else [table.c.owner == owner]))


def take(
    conn: sa.Connection,
    table: sa.Table,
    owner: str,
    seconds: float,
    *where: sa.ColumnElement[bool],
    again: bool = False,
    **values: Any,
) -> bool:
    """Hold the row that `where` selects for `seconds`, and change its `values`; -> False when another owner holds it.

    `again`: also take what this owner already holds: the reply to an earlier commit may have got lost.
    """
    dialect = conn.dialect.name
    open_to_us = free(table, dialect, owner if again else None)
    taken = sa.update(table).where(*where, open_to_us).values(owner=owner, until=clock(dialect) + seconds, **values)
    return conn.execute(taken).rowcount == 1


def renew(conn: sa.Connection, table: sa.Table, owner: str, seconds: float, *where: sa.ColumnElement[bool]) -> int:
    """Extend to `seconds` from now the rows selected by `where` that this owner holds; -> how many.

    Also after the lease has expired, as long as no other owner took the row.
    """
    kept = sa.update(table).where(*where, table.c.owner == owner).values(until=clock(conn.dialect.name) + seconds)
    return conn.execute(kept).rowcount


def release(conn: sa.Connection, table: sa.Table, owner: str, *where: sa.ColumnElement[bool], **values: Any) -> bool:
    """Release the row that `where` selects, and change its `values`; -> False, with no change, when it is not ours.

    Also after the lease has expired, as long as no other owner took the row.
    """
    freed = sa.update(table).where(*where, table.c.owner == owner).values(**NOBODY, **values)
    return conn.execute(freed).rowcount == 1
