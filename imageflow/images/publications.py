"""Where versions are published besides the store, for operators."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from sqlalchemy import Connection

from imageflow.config import Config
from imageflow.errors import Conflict, NotFound
from imageflow.model import Publication, PublicationState, Version
from imageflow.persistence import publications, versions
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST
from imageflow.stores import targets

_TROUBLED = (PublicationState.WAITING, PublicationState.FAILED, PublicationState.MISSING)


class Publications:
    """The versions in the publication targets, and on their way there."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database

    def targets(self) -> tuple[str, ...]:
        """The names of the configured targets; raises ConfigError."""
        return targets.names(self._config)

    def select(
        self,
        *,
        image: str | None = None,
        target: str | None = None,
        states: Sequence[PublicationState] = (),
        limit: int | None = None,
    ) -> list[Publication]:
        """Those of the newest versions first; targets that are no longer configured are included."""
        with self._database.read() as conn:
            return publications.select(conn, image=image, target=target, states=states, limit=limit)

    def of(self, version: Version) -> list[Publication]:
        """The publications of one version, by target name."""
        with self._database.read() as conn:
            return publications.select(conn, version_id=version.id)

    def retry(self, ref: str | None = None, *, target: str | None = None) -> list[Publication]:
        """Publish again, from now on; -> the affected publications. Raises NotFound for a target that is not configured.

        `ref`: that version, in every target where it is wanted or never was published. With only a target: what failed, is missing
        or waits there, and the newest version of each image never published there. Neither: what failed, is missing or waits.
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

        return self._database.transact(work, patience=REQUEST)

    def forget(self, target: str) -> int:
        """Forget what was published to a target that is no longer configured; -> the number of publications.

        Raises Conflict when it is configured, NotFound when nothing was published to it.
        """
        if target in self.targets():
            raise Conflict(f"target {target!r} is configured", hint=f"take it out of {targets.OPTION} first")
        number = self._database.transact(lambda conn: publications.forget(conn, target), patience=REQUEST)
        if not number:
            raise NotFound(f"nothing was published to {target!r}", hint="see 'imageflow publication list'")
        return number


def _key(one: Publication) -> tuple[int, str]:
    return one.version_id, one.target
