"""How many events are kept, and how large all of them together may be: then the oldest that wait for nothing go."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from imageflow.config import Config
from imageflow.errors import InboxFull
from imageflow.model import Event
from imageflow.persistence import events
from imageflow.persistence.database import Database
from imageflow.persistence.patience import EVENT

LOG = logging.getLogger(__name__)
_FRESH = 60.0  # seconds for which a count is added to; other processes store events, too
_FULL = 1.0  # seconds between two counts while there is no room
_ROOM = 0.95  # what is left of the bound after a removal: not each event removes one
_FEW = 200  # events removed in one transaction


class Bound:
    """The bound of one inbox; threads may share it. Several processes may exceed it by what comes in a minute."""

    def __init__(self, database: Database, most_bytes: float = float("inf"), most: float = float("inf")) -> None:
        self._database = database
        self._most_bytes = most_bytes
        self._most = most
        self._lock = threading.Lock()
        self._count = self._bytes = 0
        self._under_way = self._bytes_under_way = 0  # admitted, and in nobody's count of the rows yet
        self._counted = self._refused = float("-inf")

    @classmethod
    def of(cls, config: Config, database: Database) -> Bound:
        """The bound that is configured."""
        return cls(database, config.events.max_size * 2**30, config.events.max_count)

    @contextmanager
    def admitted(self, batch: Sequence[Event]) -> Iterator[None]:
        """Make room for these events, or for any one, while they are stored.

        Raises InboxFull when everything that is kept still waits.
        """
        more, size = max(1, len(batch)), sum(map(events.size, batch))
        with self._lock:
            if time.monotonic() - self._counted > _FRESH:
                self._recount()
            if not self._has_room(more, size):
                self._make_room(more, size)
            self._under_way += len(batch)
            self._bytes_under_way += size
        stored = False
        try:
            yield
            stored = True
        finally:
            with self._lock:
                self._under_way -= len(batch)
                self._bytes_under_way -= size
                if stored:
                    self._count += len(batch)
                    self._bytes += size

    def _has_room(self, more: int, size: int, share: float = 1.0) -> bool:
        count, size = self._count + self._under_way + more, self._bytes + self._bytes_under_way + size
        return count <= share * self._most and size <= share * self._most_bytes

    def _make_room(self, more: int, size: int) -> None:
        if time.monotonic() - self._refused > _FULL:
            self._recount()
            removed = 0
            while not self._has_room(more, size, _ROOM):
                some = self._database.transact(lambda conn: events.prune(conn, limit=_FEW), patience=EVENT)
                removed += some
                self._recount()
                if not some:
                    break
            if removed:
                LOG.warning(
                    "removed the %d oldest events before their time: more would be kept than [events] max_size and max_count allow",
                    removed,
                )
        if not self._has_room(more, size):
            if self._refused < self._counted:
                self._refused = time.monotonic()
            raise InboxFull(
                f"{self._count} events of {self._bytes / 2**20:.0f} MiB are kept, and all of them still wait"
            )

    def _recount(self) -> None:
        self._count, self._bytes = self._database.look(events.total, EVENT)
        self._counted = time.monotonic()
