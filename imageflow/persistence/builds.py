"""The builds: who stands for a build key, what state each is in, what it was asked to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from enum import Enum
from typing import Any

import sqlalchemy as sa

from imageflow.errors import Conflict, NotFound
from imageflow.model import ENDED, Build, BuildState, Wish
from imageflow.persistence.tables import builds
from imageflow.persistence.upsert import insert_or_keep

_BIG = {"recipe", "pins"}
_FIELDS = [f.name for f in fields(Build)]
_WHOLE = [builds.c[name] for name in _FIELDS]
_CHEAP = [builds.c[name] for name in _FIELDS if name not in _BIG]


def _build(row: sa.Row[Any]) -> Build:
    values = dict(row._mapping)
    values["state"] = BuildState(values["state"])
    values["wish"] = Wish(values["wish"]) if values["wish"] else None
    return Build(**values)


def _values(build: Build, claim: bool) -> dict[str, Any]:
    values = {name: _plain(getattr(build, name)) for name in _FIELDS if name != "seq"}
    return values | {"claim": build.key if claim else None}


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def insert(conn: sa.Connection, build: Build, *, claim: bool) -> Build:
    """Store a new build, standing for its key if `claim`; -> it, with its `seq`.

    Raises Conflict when another build stands for the key.
    """
    if claim and (other := claim_or_holder(conn, build)) is not None:
        raise Conflict(f"build {other.id} stands for the same inputs", hint="use that one, or force a new one")
    if not claim:
        conn.execute(sa.insert(builds).values(**_values(build, claim=False)))
    seq = conn.execute(sa.select(builds.c.seq).where(builds.c.id == build.id)).scalar_one()
    return replace(build, seq=seq)


def claim_or_holder(conn: sa.Connection, build: Build) -> Build | None:
    """Store a new build that stands for its key, or -> the build that does so already.

    Of any number of processes that do this at once with the same key, one gets None.
    """
    while True:
        insert_or_keep(conn, builds, _values(build, claim=True), key="claim")
        found = holder(conn, build.key)
        if found is not None:  # None: it gave the key up between the two statements
            return None if found.id == build.id else found


def holder(conn: sa.Connection, key: str) -> Build | None:
    """The build that stands for a key: active, or succeeded with its version still there."""
    row = conn.execute(sa.select(*_WHOLE).where(builds.c.claim == key)).first()
    return _build(row) if row else None


def take_claim(conn: sa.Connection, build: Build) -> None:
    """Make this build the one that stands for its key; another one that did no longer does."""
    for attempt in (1, 2, 3):
        try:
            with conn.begin_nested():
                conn.execute(
                    sa.update(builds).where(builds.c.claim == build.key, builds.c.id != build.id).values(claim=None)
                )
                conn.execute(sa.update(builds).where(builds.c.id == build.id).values(claim=build.key))
            return
        except sa.exc.IntegrityError:  # another one took it between the two statements
            if attempt == 3:
                raise


def drop_claim(conn: sa.Connection, id: str) -> None:
    """This build no longer stands for its key: the next request builds again."""
    conn.execute(sa.update(builds).where(builds.c.id == id).values(claim=None))


def reclaim(conn: sa.Connection, id: str) -> None:
    """This build stands for its key again, unless another one does by now."""
    build = get(conn, id)
    if holder(conn, build.key) is None:
        take_claim(conn, build)


def get(conn: sa.Connection, id: str) -> Build:
    """The whole build with this id, or with the only id that begins so; raises NotFound."""
    hint = "see 'imageflow build list'"
    if not re.fullmatch(r"[0-9a-f]{1,12}", id):
        raise NotFound(f"there is no build {id!r}", hint=hint)
    # A range instead of LIKE: every database uses the index for it, in any collation.
    rows = conn.execute(
        sa.select(*_WHOLE).where(builds.c.id >= id, builds.c.id < id + "g").order_by(builds.c.id).limit(2)
    ).all()
    if not rows:
        raise NotFound(f"there is no build {id!r}", hint=hint)
    if len(rows) > 1 and rows[0].id != id:
        raise NotFound(f"several builds begin with {id!r}", hint="give more digits")
    return _build(rows[0])


def select(
    conn: sa.Connection,
    *,
    image: str | None = None,
    states: Iterable[BuildState] = (),
    limit: int = 50,
    before: int | None = None,
) -> list[Build]:
    """Builds, newest first, without `recipe` and `pins`; `before`: only those with a smaller `seq`."""
    where: list[sa.ColumnElement[bool]] = []
    if image is not None:
        where.append(builds.c.image == image)
    if before is not None:
        where.append(builds.c.seq < before)
    wanted = sorted({BuildState(s).value for s in states})
    newest = sa.select(*_CHEAP).where(*where).order_by(builds.c.seq.desc()).limit(limit)
    if len(wanted) > 1 and image is None:
        # One ordered index range per state: with IN, SQLite walks over all the builds that ended.
        ranges = [newest.where(builds.c.state == state).subquery() for state in wanted]
        merged = sa.union_all(*(sa.select(part) for part in ranges)).order_by(sa.desc("seq")).limit(limit)
        return [_build(row) for row in conn.execute(merged)]
    if wanted:
        newest = newest.where(builds.c.state.in_(wanted))
    return [_build(row) for row in conn.execute(newest)]


def latest(conn: sa.Connection, image: str) -> Build | None:
    """The newest build of an image that succeeded, whole."""
    row = conn.execute(
        sa.select(*_WHOLE)
        .where(builds.c.image == image, builds.c.state == BuildState.SUCCEEDED.value)
        .order_by(builds.c.seq.desc())
        .limit(1)
    ).first()
    return _build(row) if row else None


def change(
    conn: sa.Connection,
    id: str,
    to: BuildState | None = None,
    frm: Sequence[BuildState] = (),
    *,
    unwished: bool = False,
    **values: Any,
) -> bool:
    """Set the state (and other columns) of a build, if its state is one of `frm`; -> whether it was.

    `unwished`: and only if it was not asked to end. A build that ends without success stands for its key no longer.
    """
    values = {name: _plain(value) for name, value in values.items()}
    if to is not None:
        values["state"] = to.value
        if to in ENDED and to is not BuildState.SUCCEEDED:
            values["claim"] = None
    statement = sa.update(builds).where(builds.c.id == id)
    if frm:
        statement = statement.where(builds.c.state.in_([s.value for s in frm]))
    if unwished:
        statement = statement.where(builds.c.wish.is_(None))
    return conn.execute(statement.values(**values)).rowcount == 1


def set_wish(conn: sa.Connection, id: str, wish: Wish, frm: Sequence[BuildState] = ()) -> bool:
    """Write down what a build (in one of the states `frm`; any that has not ended) was asked to do.

    The first wish stays; -> whether it is this one now.
    """
    allowed = [s.value for s in (frm or [s for s in BuildState if not s.ended])]
    statement = sa.update(builds).where(
        builds.c.id == id,
        builds.c.state.in_(allowed),
        sa.or_(builds.c.wish.is_(None), builds.c.wish == wish.value),
    )
    return conn.execute(statement.values(wish=wish.value)).rowcount == 1


def wishes(conn: sa.Connection, ids: Iterable[str]) -> dict[str, Wish]:
    """Of these builds the ones that were asked to do something: id -> what."""
    wanted = list(ids)
    if not wanted:
        return {}
    query = sa.select(builds.c.id, builds.c.wish).where(builds.c.id.in_(wanted), builds.c.wish.is_not(None))
    return {id: Wish(wish) for id, wish in conn.execute(query)}


def paused_before(conn: sa.Connection, moment: float) -> list[str]:
    """Ids of builds that have been paused since before `moment`, oldest first."""
    query = (
        sa.select(builds.c.id)
        .where(builds.c.state == BuildState.PAUSED.value, builds.c.paused < moment)
        .order_by(builds.c.seq)
    )
    return list(conn.execute(query).scalars())


def note_step(conn: sa.Connection, id: str, step: str, moment: float) -> None:
    """This step of the build runs now; the first one is the build's start."""
    started = sa.func.coalesce(builds.c.started, moment)
    conn.execute(sa.update(builds).where(builds.c.id == id).values(step=step, started=started))


def using(conn: sa.Connection, digest: str) -> list[str]:
    """Ids of the builds that have not ended and that were pinned to the image version with this digest."""
    active = [s.value for s in BuildState if not s.ended]
    pinned = sa.cast(builds.c.pins, sa.Text).contains(digest, autoescape=True)
    return list(conn.execute(sa.select(builds.c.id).where(builds.c.state.in_(active), pinned)).scalars())
