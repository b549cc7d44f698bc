"""Which versions should be in which publication targets, written in the transaction that creates or deletes the version."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from imageflow.model import Publication, PublicationState, PublicationWish
from imageflow.persistence import leases
from imageflow.persistence.database import clock
from imageflow.persistence.tables import publications, versions
from imageflow.persistence.upsert import insert_or_update

_OF_VERSION = ("image", "digest", "build_id")
_OWN = [publications.c[f.name] for f in fields(Publication) if f.name not in _OF_VERSION]
_JOINED = sa.select(*_OWN, *(versions.c[name] for name in _OF_VERSION)).join_from(publications, versions)
_ANEW = {"state": PublicationState.WAITING, "attempts": 0, "refused": 0, "next": 0.0, "error": None}


def _publication(row: sa.Row[Any]) -> Publication:
    return Publication(**row._mapping)


# -- wishes, in the transaction of the version ---------------------------------------------------


def want(conn: sa.Connection, version_id: int, targets: Iterable[str]) -> None:
    """The version should be in these targets; nothing changes where it is, or is on its way."""
    for target in dict.fromkeys(targets):
        since = clock(conn.dialect.name)
        row = {"version_id": version_id, "target": target, "wish": PublicationWish.STORED, "since": since, **_ANEW}
        insert_or_update(conn, publications, row, key=["version_id", "target"], change={"target": target})


def unwant(conn: sa.Connection, version_id: int) -> None:
    """The version is deleted: it should no longer be in any target."""
    which = (publications.c.version_id == version_id, publications.c.wish != PublicationWish.REMOVED)
    values = {"wish": PublicationWish.REMOVED, "since": clock(conn.dialect.name), **_ANEW}
    conn.execute(sa.update(publications).where(*which).values(**values))


def again(conn: sa.Connection, one: Publication) -> bool:
    """Restart work on it from now on; -> whether it still exists. A publisher that works on it now continues."""
    values = {**_ANEW, "since": clock(conn.dialect.name)}
    return conn.execute(sa.update(publications).where(*_key(one)).values(**values)).rowcount == 1


def lost(conn: sa.Connection, path: str) -> list[Publication]:
    """The image with this id (path) was deleted in a target from outside; -> the affected publications."""
    found = [
        _publication(row)
        for row in conn.execute(
            _JOINED.where(
                publications.c.path == path,
                publications.c.state == PublicationState.STORED,
                publications.c.wish == PublicationWish.STORED,
            )
        )
    ]
    return [one for one in found if _become_missing(conn, one)]


def _become_missing(conn: sa.Connection, one: Publication) -> bool:
    still = (*_key(one), publications.c.path == one.path, publications.c.state == PublicationState.STORED)
    error = f"{one.path} was deleted in {one.target}"
    values = {"state": PublicationState.MISSING, "error": error, "done": None}
    return conn.execute(sa.update(publications).where(*still).values(**values)).rowcount == 1


# -- publishing ----------------------------------------------------------------------------------


def _key(one: Publication) -> tuple[sa.ColumnElement[bool], ...]:
    return (publications.c.version_id == one.version_id, publications.c.target == one.target)


def _due(conn: sa.Connection, target: str, owner: str, without: Collection[int]) -> sa.Select[Any]:
    """The next publication to work on: first attempts before retries, the oldest first."""
    query = _JOINED.where(publications.c.target == target, publications.c.state == PublicationState.WAITING)
    if without:
        query = query.where(
            sa.or_(publications.c.wish == PublicationWish.REMOVED, publications.c.version_id.not_in(without))
        )
    return (
        query.where(leases.due(publications.c.next, conn.dialect.name))
        .where(leases.free(publications, conn.dialect.name, owner))
        .order_by(publications.c.next, publications.c.version_id)
        .limit(1)
    )


def due(conn: sa.Connection, target: str, without: Collection[int] = ()) -> bool:
    """Whether there is something to do; cheap, and writes nothing."""
    return conn.execute(_due(conn, target, "", without)).first() is not None


def take(
    conn: sa.Connection, target: str, owner: str, lease: float, without: Collection[int] = ()
) -> Publication | None:
    """The publication that this owner, and no other for `lease` seconds, may work on; in its state before that.

    `without`: versions that this owner can't publish. `Publication.owner` is the owner that died, or was lost, over it, if any.
    """
    while (row := conn.execute(_due(conn, target, owner, without)).first()) is not None:
        found = _publication(row)
        if leases.take(
            conn, publications, owner, lease, *_key(found), publications.c.state == PublicationState.WAITING, again=True
        ):
            return found
    return None


def extend(conn: sa.Connection, one: Publication, owner: str, lease: float) -> PublicationWish | None:
    """Hold it for `lease` seconds more; -> the current wish, None when it is no longer ours."""
    if not leases.renew(conn, publications, owner, lease, *_key(one)):
        return None
    wish: PublicationWish | None = conn.execute(sa.select(publications.c.wish).where(*_key(one))).scalar()
    return wish


def stored(conn: sa.Connection, one: Publication, owner: str, path: str) -> bool:
    """The target has it; -> whether it was still ours. If it is to be removed by now, that comes next."""
    done = {"state": PublicationState.STORED, "done": clock(conn.dialect.name), "error": None}
    return _settle(
        conn, one, owner, publications.c.wish == PublicationWish.STORED, path=path, **_COUNTED, **done
    ) or _settle(conn, one, owner, path=path)


def removed(conn: sa.Connection, one: Publication, owner: str) -> bool:
    """The target no longer has it; -> whether it was still ours."""
    mine = (*_key(one), publications.c.owner == owner, publications.c.wish == PublicationWish.REMOVED)
    return conn.execute(sa.delete(publications).where(*mine)).rowcount == 1


_COUNTED = {"attempts": publications.c.attempts + 1}


def failed(
    conn: sa.Connection, one: Publication, owner: str, error: str, wait: float, *, refused: bool, final: bool = False
) -> bool:
    """It failed: again after `wait` seconds, unless that was the `final` attempt. -> Whether it was still ours.

    A wish renewed in the meantime has not failed.
    """
    values = {
        **_COUNTED,
        "refused": publications.c.refused + int(refused),
        "next": clock(conn.dialect.name) + wait,
        "error": error,
        "state": PublicationState.FAILED if final else PublicationState.WAITING,
    }
    return _settle(conn, one, owner, publications.c.wish == one.wish, **values) or _settle(conn, one, owner)


def put_back(conn: sa.Connection, one: Publication, owner: str, error: str | None = None) -> bool:
    """Neither done nor attempted; -> whether it was still ours."""
    return _settle(conn, one, owner, **({} if error is None else {"error": error}))


def _settle(conn: sa.Connection, one: Publication, owner: str, *where: sa.ColumnElement[bool], **values: Any) -> bool:
    return leases.release(conn, publications, owner, *_key(one), *where, **values)


def hasten(conn: sa.Connection, target: str) -> None:
    """The target is back: what waited because it was down need not wait any longer."""
    which = (
        publications.c.target == target,
        publications.c.state == PublicationState.WAITING,
        publications.c.refused == 0,
    )
    conn.execute(sa.update(publications).where(*which, publications.c.next > 0).values(next=0.0))


def under_way(conn: sa.Connection, target: str, build_id: str, owner: str) -> bool:
    """Whether this build's version still has to reach this target, or another publisher works on it right now."""
    wanted = sa.and_(publications.c.wish == PublicationWish.STORED, publications.c.state == PublicationState.WAITING)
    others = sa.not_(leases.free(publications, conn.dialect.name, owner))
    query = sa.select(sa.literal(1)).join_from(publications, versions)
    query = query.where(publications.c.target == target, versions.c.build_id == build_id, sa.or_(wanted, others))
    return conn.execute(query.limit(1)).first() is not None


def used(conn: sa.Connection, target: str) -> bool:
    """Whether anything ever reached this target, as far as its rows still show."""
    query = sa.select(sa.literal(1)).where(publications.c.target == target, publications.c.path.is_not(None))
    return conn.execute(query.limit(1)).first() is not None


# -- operating -----------------------------------------------------------------------------------


def select(
    conn: sa.Connection,
    *,
    image: str | None = None,
    version_id: int | None = None,
    target: str | None = None,
    states: Sequence[PublicationState] = (),
    limit: int | None = None,
) -> list[Publication]:
    """Those of the newest versions first; those of one version by target name."""
    query = _JOINED.order_by(publications.c.version_id.desc(), publications.c.target).limit(limit)
    if image is not None:
        query = query.where(versions.c.image == image)
    if version_id is not None:
        query = query.where(publications.c.version_id == version_id)
    if target is not None:
        query = query.where(publications.c.target == target)
    if states:
        query = query.where(publications.c.state.in_(states))
    return [_publication(row) for row in conn.execute(query)]


def forget(conn: sa.Connection, target: str) -> int:
    """Remove the rows of a target that is no longer in use; -> how many."""
    return conn.execute(sa.delete(publications).where(publications.c.target == target)).rowcount
