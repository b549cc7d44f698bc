"""What events leave goes after its time: the events, their signatures, where refs were, what pollers saw last."""

from __future__ import annotations

import functools

from imageflow.config import Config
from imageflow.persistence import elapsed, events, heads, observations, proofs
from imageflow.persistence.database import Database
from imageflow.persistence.elapsed import Ages

_WATCHED = ("git:", "watch:", "schedule:", "gerrit:", elapsed.PREFIX)  # as many as recipes watch, and hosts there are


def forget(config: Config, database: Database, ages: Ages) -> None:
    """Remove what is older than it may be, and the oldest of what is more than it may be, in small transactions."""
    limits = config.events
    before = ages.before(limits.retention)
    while database.transact(lambda conn: events.prune(conn, before)):
        pass
    database.transact(lambda conn: observations.forget_refusals(conn, before))
    unknown = ages.before(max(limits.proofs, limits.retention))
    for prefix, most in {proofs.PREFIX: limits.max_proofs, heads.PREFIX: limits.max_refs}.items():
        with database.read() as conn:
            oldest = observations.oldest_kept(conn, prefix, most)
        _forget(database, prefix, unknown if oldest is None else max(unknown, oldest))
    for prefix in _WATCHED:
        _forget(database, prefix, unknown)


def _forget(database: Database, prefix: str, before: float) -> None:
    while database.transact(functools.partial(observations.forget, prefix=prefix, before=before)):
        pass
