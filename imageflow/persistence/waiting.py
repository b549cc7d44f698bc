"""Who holds the jobs of builds, and what the others wait for: for users, without TaskFlow."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from imageflow.model import Build, BuildState
from imageflow.persistence import leases
from imageflow.persistence.database import clock
from imageflow.persistence.tables import jobs

WORKED_ON = (BuildState.RUNNING, BuildState.REVERTING)


@dataclass(frozen=True, slots=True)
class Place:
    """A build's job on the board."""

    build_id: str
    owner: str | None  # the conductor that holds it, or held it last
    silent: float | None  # seconds since its lease expired, negative while it holds; None without an owner
    dead: bool  # its owner's process is known to be gone
    waits: Mapping[str, Any] | None  # what it waits for, as SqlJobBoard.postpone_in stored it
    priority: int
    seq: int

    @property
    def held(self) -> bool:
        """Whether a living conductor holds it."""
        return self.owner is not None and not self.dead and self.silent is not None and self.silent <= 0


def places(conn: sa.Connection, ids: Collection[str], host: str) -> dict[str, Place]:
    """The jobs of these builds, by the build's id; `host` is ours, whose processes can be asked."""
    found: dict[str, Place] = {}
    if not ids:
        return found
    query = sa.select(jobs, clock(conn.dialect.name).label("now")).where(jobs.c.name.in_(list(ids)))
    for row in conn.execute(query):
        silent = None if row.owner is None else float(row.now - row.until)
        dead = row.owner is not None and leases.is_dead(row.owner, host)
        waits = (row.details or {}).get("waits")
        found[row.name] = Place(row.name, row.owner, silent, dead, waits, row.priority, row.seq)
    return found


def before(conn: sa.Connection, place: Place) -> int:
    """How many free jobs come before this one."""
    earlier = sa.or_(
        jobs.c.priority < place.priority, sa.and_(jobs.c.priority == place.priority, jobs.c.seq < place.seq)
    )
    free = leases.free(jobs, conn.dialect.name)
    query = sa.select(sa.func.count()).where(jobs.c.trashed == sa.false(), free, earlier)
    return int(conn.execute(query).scalar_one())


def queued(conn: sa.Connection) -> int:
    """How many free jobs there are."""
    free = leases.free(jobs, conn.dialect.name)
    return int(conn.execute(sa.select(sa.func.count()).where(jobs.c.trashed == sa.false(), free)).scalar_one())


def silence(place: Place, lease: float) -> str:
    """Who holds a build without a sign of life, and for how long; `lease`: [conductor] lease, in seconds."""
    if place.dead:
        return f"conductor {place.owner}: its process is gone"
    return f"conductor {place.owner}: not heard of for {max(0.0, (place.silent or 0.0) + lease):.0f} s"


def silent(conn: sa.Connection, listed: Sequence[Build], host: str, lease: float) -> dict[str, str]:
    """Of these builds those that no living conductor works on although they say so: id -> who held it, and how long ago."""
    worked_on = [build.id for build in listed if build.state in WORKED_ON]
    found = places(conn, worked_on, host)
    return {id: silence(place, lease) for id, place in found.items() if place.owner is not None and not place.held}
