"""The images that events asked to be built again and that are no builds yet: one row an image, kept for its times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from imageflow.model import Rebuild
from imageflow.persistence.database import clock
from imageflow.persistence.tables import reactions, rebuilds
from imageflow.persistence.upsert import insert_or_update


def ask(conn: sa.Connection, image: str, now: float) -> None:
    """An event wants this image built again."""
    values = {"image": image, "open": True, "asked": now, "forced": False, "retry": 0.0, "until": 0.0}
    asked = sa.case((rebuilds.c.open.is_(True), rebuilds.c.asked), else_=now)
    # MariaDB evaluates from left to right: `asked` needs the old `open`.
    insert_or_update(conn, rebuilds, values, ["image"], {"asked": asked, "open": True, "retry": 0.0})


def open_rows(conn: sa.Connection) -> list[sa.Row[Any]]:
    """Those that wait, longest first: image, asked, answered, held, forced, retry, owner, until."""
    query = sa.select(rebuilds).where(rebuilds.c.open.is_(True)).order_by(rebuilds.c.asked)
    return list(conn.execute(query))


def any_open(conn: sa.Connection, images: list[str]) -> str | None:
    """An image, of these, that waits to be built again."""
    found: str | None = conn.execute(
        sa.select(rebuilds.c.image).where(rebuilds.c.open.is_(True), rebuilds.c.image.in_(images)).limit(1)
    ).scalar()
    return found


def select(conn: sa.Connection, image: str | None = None) -> list[Rebuild]:
    """Those that wait, longest first."""
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


def hold(conn: sa.Connection, image: str, why: str | None) -> None:
    """Write down why it waits."""
    conn.execute(sa.update(rebuilds).where(rebuilds.c.image == image, rebuilds.c.open.is_(True)).values(held=why))


def put_off(conn: sa.Connection, image: str, owner: str, why: str, *, retry: float) -> None:
    """Give back what this owner has taken: it waits, at least until `retry`."""
    mine = sa.update(rebuilds).where(rebuilds.c.image == image, rebuilds.c.open.is_(True), rebuilds.c.owner == owner)
    conn.execute(mine.values(held=why, retry=retry, owner=None, until=0.0))


def hold_all(conn: sa.Connection, why: Mapping[str, str]) -> None:
    """Write down why each of these images waits."""
    for image, text in why.items():
        hold(conn, image, text)


def claim(conn: sa.Connection, image: str, owner: str, seconds: float) -> bool:
    """Take it for a while, to find out what goes into it; -> False when another process has."""
    now = clock(conn.dialect.name)
    free = (rebuilds.c.image == image, rebuilds.c.open.is_(True), rebuilds.c.until < now)
    statement = sa.update(rebuilds).where(*free).values(owner=owner, until=now + seconds)
    return conn.execute(statement).rowcount == 1


def renew(conn: sa.Connection, owner: str, images: Sequence[str], seconds: float) -> None:
    """Of these images, those that this owner has taken stay its own for so many seconds from now."""
    mine = (rebuilds.c.open.is_(True), rebuilds.c.owner == owner, rebuilds.c.image.in_(images))
    conn.execute(sa.update(rebuilds).where(*mine).values(until=clock(conn.dialect.name) + seconds))


def answer(conn: sa.Connection, image: str, owner: str, now: float) -> bool:
    """It became a build, or is not needed; it goes on waiting where more events came meanwhile.

    -> False, and nothing is changed, when another process has it by now.
    """
    mine = sa.update(rebuilds).where(rebuilds.c.image == image, rebuilds.c.owner == owner)
    freed = {"answered": now, "owner": None, "until": 0.0, "held": None, "forced": False}
    if conn.execute(mine.values(**freed)).rowcount != 1:
        return False
    _shut(conn, image)
    return True


def close(conn: sa.Connection, image: str) -> None:
    """Nobody wants it any more: who looks at it does so in vain. It goes on waiting where an event came meanwhile."""
    freed = {"held": None, "forced": False, "owner": None, "until": 0.0}
    conn.execute(sa.update(rebuilds).where(rebuilds.c.image == image).values(**freed))
    _shut(conn, image)


def _shut(conn: sa.Connection, image: str) -> None:
    """Its row must be locked by this transaction: what others wrote before that is seen by a new statement only."""
    more = sa.exists().where(reactions.c.image == image, reactions.c.open.is_(True))
    conn.execute(sa.update(rebuilds).where(rebuilds.c.image == image, ~more).values(open=False))


def force(conn: sa.Connection, image: str) -> bool:
    """Let it wait for nobody; -> whether it waits at all."""
    statement = sa.update(rebuilds).where(rebuilds.c.image == image, rebuilds.c.open.is_(True))
    return conn.execute(statement.values(forced=True, retry=0.0)).rowcount == 1
