"""The builds: which one holds a build key, their states and wishes, and the last builds of an image."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any

import sqlalchemy as sa

from imageflow.errors import Conflict, NotFound
from imageflow.model import ENDED, Build, BuildState, Wish
from imageflow.persistence.tables import builds, versions
from imageflow.persistence.upsert import insert_or_keep

_BIG = {"recipe", "pins"}
_FIELDS = [f.name for f in fields(Build)]
_WHOLE = [builds.c[name] for name in _FIELDS]
_CHEAP = [builds.c[name] for name in _FIELDS if name not in _BIG]
_CHUNK = 500  # values in one IN (…)
_SKEW = 10.0  # seconds by which the clocks of hosts may differ
_BUSY = [s.value for s in (BuildState.RUNNING, BuildState.REVERTING)]


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest build of an image."""

    image: str
    id: str
    state: BuildState


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
    """Store a new build, holding its key if `claim`; -> it, with its `seq`.

    Raises Conflict when another build holds the key.
    """
    if claim and (other := claim_or_holder(conn, build)) is not None:
        raise Conflict(f"build {other.id} stands for the same inputs", hint="use that one, or force a new one")
    if not claim:
        conn.execute(sa.insert(builds).values(**_values(build, claim=False)))
    seq = conn.execute(sa.select(builds.c.seq).where(builds.c.id == build.id)).scalar_one()
    return replace(build, seq=seq)


def claim_or_holder(conn: sa.Connection, build: Build) -> Build | None:
    """Store a new build that holds its key, or -> the build that already holds it.

    Of any number of processes that do this at once with the same key, one gets None.
    """
    while True:
        insert_or_keep(conn, builds, _values(build, claim=True), key="claim")
        found = holder(conn, build.key)
        if found is not None:  # None: it released the key between the two statements
            return None if found.id == build.id else found


def holder(conn: sa.Connection, key: str) -> Build | None:
    """The build that holds the key: active, or succeeded with its version still present."""
    row = conn.execute(sa.select(*_WHOLE).where(builds.c.claim == key)).first()
    return _build(row) if row else None


def take_claim(conn: sa.Connection, build: Build) -> None:
    """Make this build the holder of its key; the previous holder loses it."""
    for attempt in (1, 2, 3):
        try:
            with conn.begin_nested():
                conn.execute(
                    sa.update(builds).where(builds.c.claim == build.key, builds.c.id != build.id).values(claim=None)
                )
                conn.execute(sa.update(builds).where(builds.c.id == build.id).values(claim=build.key))
            return
        except sa.exc.IntegrityError:  # another build took it between the two statements
            if attempt == 3:
                raise


def drop_claim(conn: sa.Connection, id: str) -> None:
    """Release the build's key: the next request builds again."""
    conn.execute(sa.update(builds).where(builds.c.id == id).values(claim=None))


def reclaim(conn: sa.Connection, id: str) -> None:
    """Make this build the holder of its key again, unless another one is by now."""
    build = get(conn, id)
    if holder(conn, build.key) is None:
        take_claim(conn, build)


def get(conn: sa.Connection, id: str) -> Build:
    """The whole build with this id, or this unique id prefix; raises NotFound."""
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
        # One ordered index range per state: with IN, SQLite walks over all ended builds.
        ranges = [newest.where(builds.c.state == state).subquery() for state in wanted]
        merged = sa.union_all(*(sa.select(part) for part in ranges)).order_by(sa.desc("seq")).limit(limit)
        return [_build(row) for row in conn.execute(merged)]
    if wanted:
        newest = newest.where(builds.c.state.in_(wanted))
    return [_build(row) for row in conn.execute(newest)]


def some(conn: sa.Connection, ids: Iterable[str]) -> dict[str, Build]:
    """Those of these builds that are known, by id, without `recipe` and `pins`."""
    wanted = sorted(set(ids))
    found: dict[str, Build] = {}
    for start in range(0, len(wanted), _CHUNK):
        query = sa.select(*_CHEAP).where(builds.c.id.in_(wanted[start : start + _CHUNK]))
        found |= {build.id: build for build in map(_build, conn.execute(query))}
    return found


def latest(conn: sa.Connection, image: str) -> Build | None:
    """The newest successful build of an image, whole."""
    row = conn.execute(
        sa.select(*_WHOLE)
        .where(builds.c.image == image, builds.c.state == BuildState.SUCCEEDED.value)
        .order_by(builds.c.seq.desc())
        .limit(1)
    ).first()
    return _build(row) if row else None


def newest(conn: sa.Connection, images: Sequence[str]) -> list[Newest]:
    """The newest build of each of these images, if any."""
    last = sa.select(sa.func.max(builds.c.seq)).where(builds.c.image.in_(images)).group_by(builds.c.image)
    rows = conn.execute(sa.select(builds.c.image, builds.c.id, builds.c.state).where(builds.c.seq.in_(last)))
    return [Newest(row.image, row.id, BuildState(row.state)) for row in rows]


def busy(conn: sa.Connection, image: str) -> str | None:
    """The started, unfinished build of this image, if any."""
    begun = sa.or_(builds.c.state.in_(_BUSY), sa.and_(builds.c.state == BuildState.QUEUED.value, builds.c.started > 0))
    found: str | None = conn.execute(
        sa.select(builds.c.id).where(builds.c.image == image, begun).order_by(builds.c.seq.desc()).limit(1)
    ).scalar()
    return found


def created_since(conn: sa.Connection, moment: float, limit: int) -> int:
    """Number of builds requested since that moment; counted up to `limit`."""
    newest = sa.select(builds.c.created).order_by(builds.c.seq.desc()).limit(limit)
    end = time.time() + _SKEW  # a later time was written before the clock was set back
    return sum(moment < created < end for created in conn.execute(newest).scalars())


def same_content(conn: sa.Connection, image: str, parent: str) -> Build | None:
    """The last build of `image`, if `parent` still has the content that it was built from.

    The build's pins say which version of the parent that was; if the parent is not the base, the time does.
    """
    last = latest(conn, image)
    now = conn.execute(_contents(parent).limit(1)).first()
    if last is None or now is None or now.content is None:
        return None
    pinned = set(last.pins.values())
    used = None
    for row in conn.execute(_contents(parent)):
        if row.digest in pinned:
            used = row
            break
    if used is None:
        used = conn.execute(_contents(parent).where(versions.c.created <= last.created).limit(1)).first()
    return last if used is not None and used.content == now.content else None


def _contents(image: str) -> sa.Select[tuple[str, str]]:
    """An image's versions, including deleted ones, newest first."""
    query = sa.select(versions.c.digest, versions.c.content).where(versions.c.image == image)
    return query.order_by(versions.c.id.desc())


def change(
    conn: sa.Connection,
    id: str,
    to: BuildState | None = None,
    frm: Sequence[BuildState] = (),
    *,
    unwished: bool = False,
    **values: Any,
) -> bool:
    """Set the state (and other columns) of a build, if its state is one of `frm`; -> whether it was set.

    `unwished`: only if it was not asked to end, too. A build that ends without success releases its key.
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


def wishes(conn: sa.Connection, ids: Iterable[str]) -> dict[str, Wish]:
    """Those of these builds that have a wish: id -> wish."""
    wanted = list(ids)
    if not wanted:
        return {}
    query = sa.select(builds.c.id, builds.c.wish).where(builds.c.id.in_(wanted), builds.c.wish.is_not(None))
    return {id: Wish(wish) for id, wish in conn.execute(query)}


def ending(conn: sa.Connection) -> list[str]:
    """Ids of the unfinished builds that were asked to end."""
    active = [s.value for s in BuildState if not s.ended]
    query = sa.select(builds.c.id).where(builds.c.state.in_(active), builds.c.wish.is_not(None))
    return list(conn.execute(query).scalars())


def paused_before(conn: sa.Connection, moment: float, or_after: float | None = None) -> list[str]:
    """Ids of builds that have been paused since before `moment`, or say that it was `or_after` a moment; oldest first."""
    when = builds.c.paused < moment
    if or_after is not None:
        when = sa.or_(when, builds.c.paused > or_after)
    query = sa.select(builds.c.id).where(builds.c.state == BuildState.PAUSED.value, when).order_by(builds.c.seq)
    return list(conn.execute(query).scalars())


def note_step(conn: sa.Connection, id: str, step: str, moment: float) -> None:
    """Record that this step of the build runs now; the first one is the build's start."""
    started = sa.func.coalesce(builds.c.started, moment)
    conn.execute(sa.update(builds).where(builds.c.id == id).values(step=step, started=started))


def using(conn: sa.Connection, digest: str) -> list[str]:
    """Ids of the unfinished builds that are pinned to the image version with this digest."""
    active = [s.value for s in BuildState if not s.ended]
    pinned = sa.cast(builds.c.pins, sa.Text).contains(digest, autoescape=True)
    return list(conn.execute(sa.select(builds.c.id).where(builds.c.state.in_(active), pinned)).scalars())
