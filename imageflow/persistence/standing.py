"""How an image stands: what its newest build does, and whether its base's content is another one than it was built from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from imageflow.model import Build, BuildState
from imageflow.persistence import builds as records
from imageflow.persistence.tables import builds, versions

_SKEW = 10.0  # seconds that the clocks of hosts may differ
_BUSY = [s.value for s in (BuildState.RUNNING, BuildState.REVERTING)]


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest build of an image."""

    image: str
    id: str
    state: BuildState


def newest(conn: sa.Connection, images: Sequence[str]) -> list[Newest]:
    """The newest build of each of these images that has any."""
    last = sa.select(sa.func.max(builds.c.seq)).where(builds.c.image.in_(images)).group_by(builds.c.image)
    rows = conn.execute(sa.select(builds.c.image, builds.c.id, builds.c.state).where(builds.c.seq.in_(last)))
    return [Newest(row.image, row.id, BuildState(row.state)) for row in rows]


def busy(conn: sa.Connection, image: str) -> str | None:
    """The build of this image that has begun and goes on, if there is one."""
    begun = sa.or_(builds.c.state.in_(_BUSY), sa.and_(builds.c.state == BuildState.QUEUED.value, builds.c.started > 0))
    found: str | None = conn.execute(
        sa.select(builds.c.id).where(builds.c.image == image, begun).order_by(builds.c.seq.desc()).limit(1)
    ).scalar()
    return found


def created_since(conn: sa.Connection, moment: float, limit: int) -> int:
    """How many builds were asked for since that moment; counted up to `limit`."""
    newest = sa.select(builds.c.created).order_by(builds.c.seq.desc()).limit(limit)
    end = time.time() + _SKEW  # what is later was written before the clock was set back
    return sum(moment < created < end for created in conn.execute(newest).scalars())


def same_content(conn: sa.Connection, image: str, parent: str) -> Build | None:
    """The last build of `image`, when `parent` still has the content that it was built from.

    Which version of the parent that was, the build's pins say; where the parent is no base, the time.
    """
    last = records.latest(conn, image)
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
    """An image's versions, the deleted ones too, newest first."""
    query = sa.select(versions.c.digest, versions.c.content).where(versions.c.image == image)
    return query.order_by(versions.c.id.desc())
