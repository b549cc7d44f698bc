"""The images that events want rebuilt and that have no build yet: one row per image, kept for its times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from imageflow.model import Rebuild
from imageflow.persistence import leases
from imageflow.persistence.tables import reactions, rebuilds
from imageflow.persistence.upsert import insert_or_update


def ask(conn: sa.Connection, image: str, now: float) -> None:
    """An event wants this image rebuilt."""
    values = {"image": image, "open": True, "asked": now, "forced": False, "retry": 0.0, **leases.NOBODY}
    asked = sa.case((rebuilds.c.open.is_(True), rebuilds.c.asked), else_=now)
    # MariaDB evaluates from left to right: `asked` needs the old `open`.
    insert_or_update(conn, rebuilds, values, ["image"], {"asked": asked, "open": True, "retry": 0.0})


def open_rows(conn: sa.Connection) -> list[sa.Row[Any]]:
    """Waiting rebuilds, longest first: image, asked, answered, held, forced, retry, and whether one is `taken` now."""
    taken = sa.not_(leases.free(rebuilds, conn.dialect.name)).label("taken")
    query = sa.select(rebuilds, taken).where(rebuilds.c.open.is_(True)).order_by(rebuilds.c.asked)
    return list(conn.execute(query))


def any_open(conn: sa.Connection, images: list[str]) -> str | None:
    """One of these images that waits to be rebuilt."""
    found: str | None = conn.execute(
        sa.select(rebuilds.c.image).where(rebuilds.c.open.is_(True), rebuilds.c.image.in_(images)).limit(1)
    ).scalar()
    return found


def select(conn: sa.Connection, image: str | None = None) -> list[Rebuild]:
    """Waiting rebuilds, longest first."""
    count = (
        sa.select(sa.func.count())
        .where(reactions.c.image == rebuilds.c.image, reactions.c.open.is_(True))
        .scalar_subquery()
    )
    columns = (rebuilds.c.image, rebuilds.c.asked, count, rebuilds.c.held, rebuilds.c.answered, rebuilds.c.forced)
    query = sa.select(*columns).where(rebuilds.c.open.is_(True)).order_by(rebuilds.c.asked)
    if image is not None:
        query = query.where(rebuilds.c.image == image)
    return [Rebuild(*row) for row in conn.execute(query)]


def _open(image: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (rebuilds.c.image == image, rebuilds.c.open.is_(True))


def hold(conn: sa.Connection, image: str, why: str | None) -> None:
    """Record why it waits."""
    conn.execute(sa.update(rebuilds).where(*_open(image)).values(held=why))


def put_off(conn: sa.Connection, image: str, owner: str, why: str, *, retry: float) -> None:
    """Give back what this owner has taken: it waits, at least until `retry`."""
    leases.release(conn, rebuilds, owner, *_open(image), held=why, retry=retry)


def hold_all(conn: sa.Connection, why: Mapping[str, str]) -> None:
    """Record why each of these images waits."""
    for image, text in why.items():
        hold(conn, image, text)


def claim(conn: sa.Connection, image: str, owner: str, seconds: float) -> bool:
    """Take it for a while, to look its inputs up; -> False when another process has it."""
    return leases.take(conn, rebuilds, owner, seconds, *_open(image))


def renew(conn: sa.Connection, owner: str, images: Sequence[str], seconds: float) -> None:
    """Extend this owner's hold on those of these images that it has taken, to so many seconds from now."""
    leases.renew(conn, rebuilds, owner, seconds, rebuilds.c.open.is_(True), rebuilds.c.image.in_(images))


def answer(conn: sa.Connection, image: str, owner: str, now: float) -> bool:
    """It became a build, or is not needed; it keeps waiting if more events came in the meantime.

    -> False, with no change, when another process has it by now.
    """
    if not leases.release(conn, rebuilds, owner, rebuilds.c.image == image, answered=now, held=None, forced=False):
        return False
    _shut(conn, image)
    return True


def close(conn: sa.Connection, image: str) -> None:
    """It is no longer wanted: a process that is looking at it does so in vain. It keeps waiting if an event came in the meantime."""
    freed = sa.update(rebuilds).where(rebuilds.c.image == image)
    conn.execute(freed.values(held=None, forced=False, **leases.NOBODY))
    _shut(conn, image)


def _shut(conn: sa.Connection, image: str) -> None:
    """Its row must be locked by this transaction: only a new statement sees what other processes wrote before that."""
    more = sa.exists().where(reactions.c.image == image, reactions.c.open.is_(True))
    conn.execute(sa.update(rebuilds).where(rebuilds.c.image == image, ~more).values(open=False))


def force(conn: sa.Connection, image: str) -> bool:
    """Release it from waiting; -> whether it waits at all."""
    return conn.execute(sa.update(rebuilds).where(*_open(image)).values(forced=True, retry=0.0)).rowcount == 1
