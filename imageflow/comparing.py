"""Compares what we believe of a cloud with the cloud: newer bases that nobody told of, versions that somebody deleted.

What Glance's notifications tell is looked at within a second; without them, and for what they missed, there are rounds.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from imageflow import missing, newer_bases
from imageflow.complaints import Complaints
from imageflow.errors import DatabaseUnavailable
from imageflow.model import Event, Version
from imageflow.openstack.image import BUILD
from imageflow.persistence import events, publications, versions
from imageflow.service import Service
from imageflow.signals import Flag

LOG = logging.getLogger(__name__)
_DELETE, _UPDATE = "glance.image.delete", "glance.image.update"
_GONE = ("deleted", "pending_delete", "deactivated", "killed")  # states of an image that can't be used
_MANY = 25  # versions that one round asks for
_TELLING = 200  # events of one look
_BEFORE = 1000  # events that came before the first look and are looked at all the same: nothing may have served
_REST = 1.0  # seconds between two looks at events, however many come
_RETRY = 60.0  # seconds until a cloud that did not answer is asked again
_SETTLE = 5.0  # seconds after which an image is there for all: Glance tells of it just before


class Comparing:
    """One of the threads of `imageflow serve`; any number of processes may do this at once."""

    def __init__(self, service: Service, rest: float = _REST) -> None:
        self._service = service
        self._database = service.database
        self._every = service.config.triggers.reconcile
        self._rest = rest
        self._bell = Flag()
        self._complaints = Complaints()
        self._told: int | None = None  # seq of the last event that was looked at
        self._settled: float | None = None  # when to see whether who was told of a base came too early
        self._before: int | None = None  # id of the oldest version that this pass through all of them has seen

    def wake(self) -> None:
        """There is something new in the inbox."""
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
            except Exception as error:  # noqa: BLE001 - the other one is done all the same
                self._complaints.add(what, error)
                whole = False
        return whole

    def bases(self) -> list[str]:
        """Ask for the images whose base in Glance has a newer image; -> those."""
        self._settled = None
        return newer_bases.ask(self._database, self._service.config)

    def versions(self) -> list[Version]:
        """Ask the store for some of the versions, the next ones each time; -> those that are missing."""
        if not self._service.store.shared:
            return []
        with self._database.read() as conn:
            suspects = versions.some(conn, self._service.store.name, self._before, _MANY)
        gone = self._look(
            suspects, f"it is not in {self._service.store.name} any more, and imageflow did not delete it"
        )
        self._before = suspects[-1].id if len(suspects) == _MANY else None
        return gone

    def listen(self) -> list[Version]:
        """Look at what was told since the last time; -> the versions that are missing."""
        gone: list[Version] = []
        before, news = self._told, self._news()
        try:
            # All of them first: rounds find versions, whatever happens below, but not what is gone from targets.
            self._look_at_targets(news)
        except DatabaseUnavailable:
            self._told = before
            raise
        for event in news:
            if event.type == newer_bases.ACTIVATE:
                self._settled = self._settled or time.monotonic() + _SETTLE
                continue
            data = _data(event)
            if event.type != _DELETE and data.get("status") not in _GONE:
                continue
            what = "deleted" if event.type == _DELETE else data.get("status")
            properties = data.get("properties")
            build = _word(properties.get(BUILD)) if isinstance(properties, dict) else None
            if build is not None and self._service.store.shared:
                with self._database.read() as conn:
                    version = versions.of(conn, build)
                if version is not None and version.store == self._service.store.name:
                    gone += self._look(
                        [version], f"its image {data.get('id')} is {what} ({event.type}, event {event.seq})"
                    )
        return gone

    def _look_at_targets(self, news: list[Event]) -> None:
        deleted = [id for event in news if event.type == _DELETE and (id := _word(_data(event).get("id"))) is not None]
        if deleted:
            self._database.transact(functools.partial(_lost, paths=deleted))

    def _look(self, suspects: list[Version], why: str) -> list[Version]:
        there = [version for version in suspects if version.state == versions.STORED]
        return missing.look(self._database, self._service.config, self._service.store, there, why)

    def _news(self) -> list[Event]:
        """The events of Glance that came since the last time, oldest first; at first those that nobody may have looked at."""
        with self._database.read() as conn:
            if self._told is None:
                self._told = max(0, events.last(conn) - _BEFORE)
            found = events.of_types(conn, (_DELETE, _UPDATE, newer_bases.ACTIVATE), after=self._told, limit=_TELLING)
            self._told = found[-1].seq if len(found) == _TELLING else max(self._told, events.last(conn))
        return found


def _data(event: Event) -> Mapping[str, Any]:
    return event.data if isinstance(event.data, dict) else {}


def _word(value: object) -> str | None:
    """A name that a database can be asked for; events of this type can be anybody's."""
    return value if isinstance(value, str) and value and value.isprintable() else None


def _lost(conn: Connection, paths: list[str]) -> None:
    for path in paths:
        for one in publications.lost(conn, path):
            LOG.warning("%s of build %s is missing in %s: somebody deleted it", one.image, one.build_id, one.target)
