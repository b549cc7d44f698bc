"""Which version is to be in which publication target, written in the transaction that makes or deletes the version."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from imageflow.model import Publication
from imageflow.persistence.database import clock
from imageflow.persistence.tables import publications, versions
from imageflow.persistence.upsert import insert_or_update

WAITING, STORED, FAILED, MISSING = "waiting", "stored", "failed", "missing"
REMOVED = "removed"  # a wish, as STORED is
_OF_VERSION = ("image", "digest", "build_id")
_OWN = [publications.c[f.name] for f in fields(Publication) if f.name not in _OF_VERSION]
_JOINED = sa.select(*_OWN, *(versions.c[name] for name in _OF_VERSION)).join_from(publications, versions)
_ANEW = {"state": WAITING, "attempts": 0, "refused": 0, "next": 0.0, "error": None}


def _publication(row: sa.Row[Any]) -> Publication:
    return Publication(**row._mapping)


# -- wishing, in the transaction of the version --------------------------------------------------


def want(conn: sa.Connection, version_id: int, targets: Iterable[str]) -> None:
    """The version is to be in these targets; where it is, or is on its way, nothing changes."""
    for target in dict.fromkeys(targets):
        since = clock(conn.dialect.name)
        row = {"version_id": version_id, "target": target, "wish": STORED, "since": since, **_ANEW}
        insert_or_update(conn, publications, row, key=["version_id", "target"], change={"target": target})


def unwant(conn: sa.Connection, version_id: int) -> None:
    """The version is deleted: it is to be in no target any more."""
    which = (publications.c.version_id == version_id, publications.c.wish != REMOVED)
    values = {"wish": REMOVED, "since": clock(conn.dialect.name), **_ANEW}
    conn.execute(sa.update(publications).where(*which).values(**values))


def again(conn: sa.Connection, one: Publication) -> bool:
    """Work on it anew, from now on; -> whether it is still there. Who works on it now goes on."""
    values = {**_ANEW, "since": clock(conn.dialect.name)}
    return conn.execute(sa.update(publications).where(*_key(one)).values(**values)).rowcount == 1


def lost(conn: sa.Connection, path: str) -> list[Publication]:
    """Somebody deleted what lies at this path in a target, an image's id; -> which publications it was."""
    found = [
        _publication(row)
        for row in conn.execute(
            _JOINED.where(publications.c.path == path, publications.c.state == STORED, publications.c.wish == STORED)
        )
    ]
    return [one for one in found if _become_missing(conn, one)]


def _become_missing(conn: sa.Connection, one: Publication) -> bool:
    still = (*_key(one), publications.c.path == one.path, publications.c.state == STORED)
    error = f"somebody deleted {one.path} in {one.target}"
    values = {"state": MISSING, "error": error, "done": None}
    return conn.execute(sa.update(publications).where(*still).values(**values)).rowcount == 1


# -- publishing ----------------------------------------------------------------------------------


def _key(one: Publication) -> tuple[sa.ColumnElement[bool], ...]:
    return (publications.c.version_id == one.version_id, publications.c.target == one.target)


def _free(conn: sa.Connection, owner: str) -> sa.ColumnElement[bool]:
    """Nobody else works on it; what this owner took stays its own, also when the answer of that commit got lost."""
    return sa.or_(publications.c.until <= clock(conn.dialect.name), publications.c.owner == owner)


def _due(conn: sa.Connection, target: str, owner: str, without: Collection[int]) -> sa.Select[Any]:
    """The one that may be worked on next: who waits for the first time before who failed, the oldest first."""
    query = _JOINED.where(publications.c.target == target, publications.c.state == WAITING)
    if without:
        query = query.where(sa.or_(publications.c.wish == REMOVED, publications.c.version_id.not_in(without)))
    return (
        query.where(publications.c.next <= clock(conn.dialect.name), _free(conn, owner))
        .order_by(publications.c.next, publications.c.version_id)
        .limit(1)
    )


def due(conn: sa.Connection, target: str, without: Collection[int] = ()) -> bool:
    """Whether there is something to do; cheap, and writes nothing."""
    return conn.execute(_due(conn, target, "", without)).first() is not None


def take(
    conn: sa.Connection, target: str, owner: str, lease: float, without: Collection[int] = ()
) -> Publication | None:
    """What this owner may work on, and nobody else for `lease` seconds; as it was before that.

    `without`: versions that this owner can't publish. `Publication.owner` is who died, or was lost, over it, if any.
    """
    until = clock(conn.dialect.name) + lease
    while (row := conn.execute(_due(conn, target, owner, without)).first()) is not None:
        found = _publication(row)
        taken = conn.execute(
            sa.update(publications)
            .where(*_key(found), publications.c.state == WAITING, _free(conn, owner))
            .values(owner=owner, until=until)
        )
        if taken.rowcount == 1:
            return found
    return None


def extend(conn: sa.Connection, one: Publication, owner: str, lease: float) -> str | None:
    """Keep it for `lease` seconds more; -> what is wished now, None when it is not ours any more."""
    mine = (*_key(one), publications.c.owner == owner)
    kept = conn.execute(sa.update(publications).where(*mine).values(until=clock(conn.dialect.name) + lease))
    if kept.rowcount != 1:
        return None
    wish: str | None = conn.execute(sa.select(publications.c.wish).where(*mine)).scalar()
    return wish


def stored(conn: sa.Connection, one: Publication, owner: str, path: str) -> bool:
    """The target has it; -> whether it was still ours to say so. When it is to be removed meanwhile, that comes next."""
    done = {"state": STORED, "done": clock(conn.dialect.name), "error": None}
    return _settle(conn, one, owner, publications.c.wish == STORED, path=path, **_COUNTED, **done) or _settle(
        conn, one, owner, path=path
    )


def removed(conn: sa.Connection, one: Publication, owner: str) -> bool:
    """The target has it no more; -> whether it was ours to say so."""
    mine = (*_key(one), publications.c.owner == owner, publications.c.wish == REMOVED)
    return conn.execute(sa.delete(publications).where(*mine)).rowcount == 1


_COUNTED = {"attempts": publications.c.attempts + 1}


def failed(
    conn: sa.Connection, one: Publication, owner: str, error: str, wait: float, *, refused: bool, final: bool = False
) -> bool:
    """It did not work: again after `wait` seconds, unless that was the `final` attempt. -> Whether it was still ours.

    What was wished anew meanwhile has not failed.
    """
    values = {
        **_COUNTED,
        "refused": publications.c.refused + int(refused),
        "next": clock(conn.dialect.name) + wait,
        "error": error,
        "state": FAILED if final else WAITING,
    }
    return _settle(conn, one, owner, publications.c.wish == one.wish, **values) or _settle(conn, one, owner)


def put_back(conn: sa.Connection, one: Publication, owner: str, error: str | None = None) -> bool:
    """Not done, and not tried either; -> whether it was still ours."""
    return _settle(conn, one, owner, **({} if error is None else {"error": error}))


def _settle(conn: sa.Connection, one: Publication, owner: str, *where: sa.ColumnElement[bool], **values: Any) -> bool:
    mine = (*_key(one), publications.c.owner == owner, *where)
    return conn.execute(sa.update(publications).where(*mine).values(owner=None, until=0.0, **values)).rowcount == 1


def hasten(conn: sa.Connection, target: str) -> None:
    """The target is back: what waits because it was away need not wait any longer."""
    which = (publications.c.target == target, publications.c.state == WAITING, publications.c.refused == 0)
    conn.execute(sa.update(publications).where(*which, publications.c.next > 0).values(next=0.0))


def under_way(conn: sa.Connection, target: str, build_id: str, owner: str) -> bool:
    """Whether this build's version is still to get into this target, or somebody else works on it right now."""
    wanted = sa.and_(publications.c.wish == STORED, publications.c.state == WAITING)
    others = sa.and_(publications.c.until > clock(conn.dialect.name), publications.c.owner != owner)
    query = sa.select(sa.literal(1)).join_from(publications, versions)
    query = query.where(publications.c.target == target, versions.c.build_id == build_id, sa.or_(wanted, others))
    return conn.execute(query.limit(1)).first() is not None


def used(conn: sa.Connection, target: str) -> bool:
    """Whether anything ever got into this target, as far as its rows still say."""
    query = sa.select(sa.literal(1)).where(publications.c.target == target, publications.c.path.is_not(None))
    return conn.execute(query.limit(1)).first() is not None


# -- operating -----------------------------------------------------------------------------------


def select(
    conn: sa.Connection,
    *,
    image: str | None = None,
    version_id: int | None = None,
    target: str | None = None,
    states: Sequence[str] = (),
    limit: int | None = None,
) -> list[Publication]:
    """The newest versions' first; those of one version by the names of the targets."""
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
    """Remove the rows of a target that is not used any more; -> how many."""
    return conn.execute(sa.delete(publications).where(publications.c.target == target)).rowcount
