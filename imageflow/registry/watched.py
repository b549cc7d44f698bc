"""The pollers' view of the database: what to look at, and what they saw last."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from imageflow.errors import NotFound
from imageflow.model import Trigger
from imageflow.persistence import builds, observations, registry
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST

_FRESH = 86400.0  # seconds after which a value that did not change is marked as still watched


class SqlWatched:
    """Fulfils listeners.Watched."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def triggers(self, kind: str) -> list[Trigger]:
        """See listeners.Watched."""
        with self._database.read() as conn:
            return registry.triggers_of_kind(conn, kind)

    def canonical(self, image: str) -> dict[str, Any] | None:
        """See listeners.Watched."""
        with self._database.read() as conn:
            try:
                return dict(registry.of_image(conn, image)[1])
            except NotFound:
                return None

    def folder(self, image: str) -> str:
        """See listeners.Watched."""
        with self._database.read() as conn:
            return str(Path(registry.of_image(conn, image)[0].path).parent)

    def pinned(self, image: str) -> dict[str, str]:
        """See listeners.Watched."""
        with self._database.read() as conn:
            last = builds.latest(conn, image)
        return dict(last.pins) if last else {}

    def seen(self, name: str) -> tuple[str, float] | None:
        """See listeners.Watched."""
        with self._database.read() as conn:
            found = observations.seen(conn, name)
        if found is not None and found[1] < time.time() - _FRESH:  # what nobody asks for any more is forgotten
            self._database.transact(lambda conn: observations.touch(conn, name, time.time()))
        return found

    def see(self, name: str, value: str) -> None:
        """See listeners.Watched."""
        self.see_all({name: value})

    def see_all(self, values: Mapping[str, str]) -> None:
        """See listeners.Watched."""

        def store(conn: Connection) -> None:
            now = time.time()
            for name, value in sorted(values.items()):  # in one order, so that two writers do not lock each other
                observations.see(conn, name, value, now)

        self._database.transact(store, patience=REQUEST)
