"""Ends leases whose owners are dead, before their time: a lease may say a time that is hours away when a clock was set back."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import sqlalchemy as sa

from imageflow.persistence import leases
from imageflow.persistence.database import Database

LOG = logging.getLogger(__name__)
FAR = 300.0  # seconds; no living owner has a lease of more, after it has renewed it by the clock as it is now
STILL = 120.0  # seconds in which a living owner renews its lease, or is done


class DeadLeases:
    """Looks at the leases of some tables; for one thread.

    An owner on this host is asked for by its process. One elsewhere whose lease is far away, and is not renewed for STILL
    seconds by our monotonic clock, is dead, too.
    """

    def __init__(
        self, database: Database, host: str, tables: Sequence[sa.Table], far: float = FAR, still: float = STILL
    ) -> None:
        """`host`: ours, as in the owners' names; `far`: in seconds, longer than any lease in these tables; `still`: seconds."""
        self._database = database
        self._host = host
        self._tables = tables
        self._far = far
        self._still = still
        self._seen: dict[tuple[str, str, float], float] = {}  # (table, owner, until) -> when it was first seen

    def end(self) -> int:
        """End the leases of the dead; -> how many."""
        ended, seen = 0, dict[tuple[str, str, float], float]()
        for table in self._tables:
            with self._database.read() as conn:
                found = leases.held(conn, table)
            for owner, until, left in found:
                lease = (table.name, owner, until)
                gone = leases.is_dead(owner, self._host)
                if not gone and left > self._far:
                    seen[lease] = self._seen.get(lease, time.monotonic())
                    gone = time.monotonic() - seen[lease] > self._still
                if gone:
                    ended += self._expire(table, owner, until)
        self._seen = seen
        return ended

    def _expire(self, table: sa.Table, owner: str, until: float) -> int:
        number = self._database.transact(lambda conn: leases.expire(conn, table, owner, until))
        if number:
            LOG.info("%s: %s is dead, what it held is free", table.name, owner)
        return number
