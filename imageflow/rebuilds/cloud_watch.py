"""Compares our records with the cloud: newer bases without a notification, versions deleted from outside.

Glance's notifications are examined within a second; without them, and for missed ones, there are rounds.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from imageflow.background.complaints import Complaints
from imageflow.background.flag import Flag
from imageflow.config import Config
from imageflow.errors import DatabaseUnavailable
from imageflow.images.catalogue import Catalogue
from imageflow.model import Event, Version, VersionState
from imageflow.openstack.image import BUILD
from imageflow.persistence import events, publications, versions
from imageflow.persistence.database import Database
from imageflow.rebuilds import behind
from imageflow.stores import Store

LOG = logging.getLogger(__name__)
_DELETE, _UPDATE = "glance.image.delete", "glance.image.update"
_GONE = ("deleted", "pending_delete", "deactivated", "killed")  # states of an image that can't be used
_MANY = 25  # versions queried in one round
_TELLING = 200  # events of one look
_BEFORE = 1000  # events before the first look that are examined nevertheless: nothing may have served
_REST = 1.0  # seconds between two looks at events, however many arrive
_RETRY = 60.0  # seconds until a cloud that did not answer is queried again
_SETTLE = 5.0  # seconds after which an image is visible to all: Glance notifies just before


class CloudWatch:
    """One of the threads of `imageflow serve`; any number of processes may run it at once."""

    def __init__(self, config: Config, database: Database, store: Store, rest: float = _REST) -> None:
        self._config = config
        self._database = database
        self._store = store
        self._catalogue = Catalogue(config, database, store)
        self._every = config.triggers.reconcile
        self._rest = rest
        self._bell = Flag()
        self._complaints = Complaints()
        self._told: int | None = None  # seq of the last examined event
        self._settled: float | None = None  # when to check whether a notification of a base was handled too early
        self._before: int | None = None  # id of the oldest version seen in the current pass over all versions

    def wake(self) -> None:
        """There are new events in the inbox."""
        self._bell.set()

    def run(self, stop: Flag) -> None:
        """Compare until `stop` is set."""
        due = 0.0
        while not stop.is_set():
            self._bell.clear()
            with self._complaints.instead_of_failing("look at what Glance tells"):
                self.listen()
            if time.monotonic() >= due:
                due = time.monotonic() + (self._every if self._round() else min(_RETRY, self._every))
            elif self._settled is not None and time.monotonic() >= self._settled:
                with self._complaints.instead_of_failing("look for newer bases"):
                    self.bases()
            stop.wait(self._rest)
            self._bell.wait(max(0.0, min(due, self._settled or due) - time.monotonic()))

    def _round(self) -> bool:
        whole = True
        for what, work in (("look for newer bases", self.bases), ("look for missing images", self.versions)):
            try:
                work()
            except Exception as error:  # noqa: BLE001 - the other one is done nevertheless
                self._complaints.add(what, error)
                whole = False
        return whole

    def bases(self) -> list[str]:
        """Request the images whose base in Glance has a newer image; -> their names."""
        self._settled = None
        return behind.reconcile_glance(self._database, self._config)

    def versions(self) -> list[Version]:
        """Look some of the versions up in the store, the next ones each time; -> the missing ones."""
        if not self._store.shared:
            return []
        with self._database.read() as conn:
            suspects = versions.some(conn, self._store.name, self._before, _MANY)
        gone = self._look(suspects, f"it is no longer in {self._store.name}, and imageflow did not delete it")
        self._before = suspects[-1].id if len(suspects) == _MANY else None
        return gone

    def listen(self) -> list[Version]:
        """Examine the events since the last time; -> the missing versions."""
        gone: list[Version] = []
        before, news = self._told, self._news()
        try:
            # All of them first: rounds find versions, whatever happens below, but not deletions in targets.
            self._look_at_targets(news)
        except DatabaseUnavailable:
            self._told = before
            raise
        for event in news:
            if event.type == behind.ACTIVATE:
                self._settled = self._settled or time.monotonic() + _SETTLE
                continue
            data = _data(event)
            if event.type != _DELETE and data.get("status") not in _GONE:
                continue
            what = "deleted" if event.type == _DELETE else data.get("status")
            properties = data.get("properties")
            build = _word(properties.get(BUILD)) if isinstance(properties, dict) else None
            if build is not None and self._store.shared:
                with self._database.read() as conn:
                    version = versions.of(conn, build)
                if version is not None and version.store == self._store.name:
                    gone += self._look(
                        [version], f"its image {data.get('id')} is {what} ({event.type}, event {event.seq})"
                    )
        return gone

    def _look_at_targets(self, news: list[Event]) -> None:
        deleted = [id for event in news if event.type == _DELETE and (id := _word(_data(event).get("id"))) is not None]
        if deleted:
            self._database.transact(functools.partial(_lost, paths=deleted))

    def _look(self, suspects: list[Version], why: str) -> list[Version]:
        there = [version for version in suspects if version.state == VersionState.STORED]
        return self._catalogue.look_for(there, why)

    def _news(self) -> list[Event]:
        """The events of Glance since the last time, oldest first; at first also those that may not have been examined."""
        with self._database.read() as conn:
            if self._told is None:
                self._told = max(0, events.last(conn) - _BEFORE)
            found = events.of_types(conn, (_DELETE, _UPDATE, behind.ACTIVATE), after=self._told, limit=_TELLING)
            self._told = found[-1].seq if len(found) == _TELLING else max(self._told, events.last(conn))
        return found


def _data(event: Event) -> Mapping[str, Any]:
    return event.data if isinstance(event.data, dict) else {}


def _word(value: object) -> str | None:
    """A name that can be looked up in a database; events of this type can come from anywhere."""
    return value if isinstance(value, str) and value and value.isprintable() else None


def _lost(conn: Connection, paths: list[str]) -> None:
    for path in paths:
        for one in publications.lost(conn, path):
            LOG.warning("%s of build %s is missing in %s: it was deleted there", one.image, one.build_id, one.target)
