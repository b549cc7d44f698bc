"""What events should have brought about and did not: images whose parents moved on while nobody looked.

A parent's new version is an event in the same transaction, so none is lost; but a recipe may have been
registered after it. What git, schedules, files and URLs did meanwhile, their pollers find out by themselves.
"""

from __future__ import annotations

import functools
import logging
import time

from sqlalchemy import Connection

from imageflow.cloudevent import OWN
from imageflow.matching import BEHIND
from imageflow.model import Event, Verdict
from imageflow.persistence import builds, events, reactions, rebuilds, registry, standing, versions
from imageflow.persistence.database import Database

LOG = logging.getLogger(__name__)


def reconcile(database: Database) -> list[str]:
    """Ask for the images that were built before their parent's newest version, of another content; -> those."""
    with database.read() as conn:
        pairs = {(one.image, str(one.given["image"])) for one in registry.triggers_of_kind(conn, "image")}
        behind = [pair for pair in sorted(pairs) if _is_behind(conn, *pair) is not None]
    asked = [pair[0] for pair in behind if database.transact(functools.partial(_ask, image=pair[0], parent=pair[1]))]
    for image in asked:
        LOG.info("%s is behind what it stands on: it is to be rebuilt", image)
    return asked


def _is_behind(conn: Connection, image: str, parent: str) -> str | None:
    """The digest of the parent's newest version, when the image should have been rebuilt for it and never was asked."""
    newest = next(iter(versions.select(conn, parent, limit=1)), None)
    last = builds.latest(conn, image)
    if newest is None or last is None or newest.created <= last.created or newest.digest in last.pins.values():
        return None
    published = events.known(conn, OWN, f"publish:{newest.build_id}")
    if published is not None and any(one.image == image for one in reactions.of_events(conn, [published])):
        return None
    return None if standing.same_content(conn, image, parent) else newest.digest


def _ask(conn: Connection, image: str, parent: str) -> bool:
    digest = _is_behind(conn, image, parent)
    if digest is None:
        return False
    now = time.time()
    why = f"{parent} had a new version when nobody looked"
    event = Event(OWN, f"behind:{image}:{parent}:{digest}", BEHIND, subject=image, time=now, data={"parent": parent})
    [(stored, new)] = events.add(conn, [event], listener="imageflow", now=now, verdict=Verdict.MATCHED, reason=image)
    if new:
        reactions.add(conn, stored.seq, image, why, now, parent)
        rebuilds.ask(conn, image, now)
    return new
