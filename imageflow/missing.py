"""Versions that somebody else took out of their store: noticed, told, and not used any more."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from dataclasses import replace

from sqlalchemy import Connection

from imageflow.config import Config
from imageflow.model import Version
from imageflow.persistence import builds, outbox, versions
from imageflow.persistence.database import Database
from imageflow.stores import Store

LOG = logging.getLogger(__name__)


def lose(conn: Connection, config: Config, version: Version, state: str, why: str) -> bool:
    """A version is missing, or corrupt: the next request builds it again. -> Whether that is new."""
    if not versions.mark(conn, version.id, state, why):
        return False
    builds.drop_claim(conn, version.build_id)
    if state == versions.MISSING:
        outbox.announce_image(conn, config.announce.targets, "missing", replace(version, state=state, why=why))
    return True


def restore(conn: Connection, config: Config, version: Version) -> None:
    """A version that was missing or corrupt is sound again, and stands for its key unless another build does."""
    if versions.mark(conn, version.id, versions.STORED):
        builds.reclaim(conn, version.build_id)
        if version.state == versions.MISSING:
            outbox.announce_image(conn, config.announce.targets, "restore", replace(version, why=None))


def look(database: Database, config: Config, store: Store, suspects: Iterable[Version], why: str) -> list[Version]:
    """Ask the store for versions; -> those that it has no more, from now on missing.

    `why`: what is told of them. Raises Unavailable when the store does not answer.
    """
    gone = []
    for version in suspects:
        if store.find(version.digest, version.build_id) is not None:
            continue
        mark = functools.partial(lose, config=config, version=version, state=versions.MISSING, why=why)
        if database.transact(lambda conn, mark=mark: mark(conn)):  # type: ignore[misc]
            LOG.warning("%s@%s of build %s is missing: %s", version.image, version.digest[:12], version.build_id, why)
            gone.append(version)
    return gone
