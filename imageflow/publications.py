"""Where versions are published besides the store, as an operator sees it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from sqlalchemy import Connection

from imageflow import targets
from imageflow.config import Config
from imageflow.errors import Conflict, NotFound
from imageflow.model import Publication, Version
from imageflow.persistence import publications, versions
from imageflow.persistence.database import Database

PATIENCE = 10.0  # seconds that a request waits for a database that is away
STATES = (publications.WAITING, publications.STORED, publications.FAILED, publications.MISSING)
_TROUBLED = (publications.WAITING, publications.FAILED, publications.MISSING)


class Publications:
    """The versions in the publication targets, and on their way there."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database

    def targets(self) -> tuple[str, ...]:
        """The names of those that are configured; raises ConfigError."""
        return targets.names(self._config)

    def select(
        self,
        *,
        image: str | None = None,
        target: str | None = None,
        states: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[Publication]:
        """The newest versions' first; also those in targets that are not configured any more."""
        with self._database.read() as conn:
            return publications.select(conn, image=image, target=target, states=states, limit=limit)

    def of(self, version: Version) -> list[Publication]:
        """Those of one version, by the names of the targets."""
        with self._database.read() as conn:
            return publications.select(conn, version_id=version.id)

    def retry(self, ref: str | None = None, *, target: str | None = None) -> list[Publication]:
        """Publish again, from now on; -> what. Raises NotFound for a target that is not configured.

        `ref`: that version, in every target where it is wanted or never was. With a target only: what failed, is missing
        or waits there, and the newest version of each image that never was there. Neither: what failed, is missing or waits.
        """
        known = self.targets()
        if target is not None and target not in known:
            there = f"there are {', '.join(known)}" if known else "there is none"
            raise NotFound(f"no target {target!r} is configured", hint=f"{there}: see {targets.OPTION}")
        into = known if target is None else (target,)

        def work(conn: Connection) -> list[Publication]:
            if ref is not None:
                version = versions.get(conn, ref)
                publications.want(conn, version.id, into)
                look = functools.partial(publications.select, conn, version_id=version.id)
            else:
                if target is not None:
                    for version in versions.newest(conn):
                        publications.want(conn, version.id, into)
                look = functools.partial(publications.select, conn, states=_TROUBLED)
            asked = {_key(one) for one in look() if one.target in into and publications.again(conn, one)}
            return [one for one in look() if _key(one) in asked]

        return self._database.transact(work, patience=PATIENCE)

    def forget(self, target: str) -> int:
        """Forget what was published to a target that is not configured any more; -> how many publications.

        Raises Conflict when it is configured, NotFound when nothing was published to it.
        """
        if target in self.targets():
            raise Conflict(f"target {target!r} is configured", hint=f"take it out of {targets.OPTION} first")
        number = self._database.transact(lambda conn: publications.forget(conn, target), patience=PATIENCE)
        if not number:
            raise NotFound(f"nothing was published to {target!r}", hint="see 'imageflow publication list'")
        return number


def _key(one: Publication) -> tuple[int, str]:
    return one.version_id, one.target
