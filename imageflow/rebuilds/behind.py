"""Finds images that are behind their base, one of ours or in Glance, and that no event has asked to rebuild.

A new version of ours is an event in the same transaction, so none is lost; but a recipe may have been registered
after it. Glance may not have sent a notification: then the missing one is put into the inbox, under its own
identity, so that it counts once should it still arrive. Pollers find out by themselves what git, schedules, files and
URLs did in the meantime.
"""

from __future__ import annotations

import datetime
import functools
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from imageflow.config import Config
from imageflow.errors import RecipeError
from imageflow.events import triggers
from imageflow.events.own import BEHIND, OWN, published_id
from imageflow.inputs import glance, source_name
from imageflow.model import Event, Json, Outcome, Verdict
from imageflow.openstack.image import BUILD
from imageflow.persistence import builds, events, reactions, rebuilds, registry, versions
from imageflow.persistence.database import Database
from imageflow.recipe import ImageRecipe, MadeFrom
from imageflow.recipe.inputs import is_id

if TYPE_CHECKING:
    from imageflow.openstack.image import GlanceImage

LOG = logging.getLogger(__name__)
ACTIVATE = "glance.image.activate"
_TOLD = (  # the fields of an image in a notification; everything else are its properties
    "id",
    "name",
    "status",
    "created_at",
    "updated_at",
    "min_disk",
    "min_ram",
    "protected",
    "checksum",
    "owner",
    "disk_format",
    "container_format",
    "size",
    "virtual_size",
    "visibility",
    "tags",
)
_LINKS = ("self", "file", "schema", "direct_url", "locations", "stores", "os_hidden", "os_hash_algo", "os_hash_value")
_IN_VAIN = (Outcome.REUSED, Outcome.UNCHANGED)  # it was looked at before Glance would have listed the image


@dataclass(frozen=True, slots=True)
class _Standing:
    """An image based on the Glance image of this name."""

    image: str
    pin: str  # the name of its pin
    canonical: Json


def reconcile(database: Database) -> list[str]:
    """Request the images that were built before their parent's newest version, if its content differs; -> their names."""
    with database.read() as conn:
        pairs = {(one.image, str(one.given["image"])) for one in registry.triggers_of_kind(conn, "image")}
        behind = [pair for pair in sorted(pairs) if _newer_parent(conn, *pair) is not None]
    asked = [
        image for image, parent in behind if database.transact(functools.partial(_ask_for, image=image, parent=parent))
    ]
    for image in asked:
        LOG.info("%s is behind what it stands on: it is to be rebuilt", image)
    return asked


def reconcile_glance(database: Database, config: Config) -> list[str]:
    """Request the images whose base or ISO has a newer image in Glance, where a trigger wants that; -> their names.

    Raises Unavailable when Glance does not answer; it is not queried if there are no such images.
    """
    with database.read() as conn:
        standing = [one for one in _standing(conn) if _is_built(conn, one)]
    found: dict[str, tuple[Event, str] | None] = {}
    asked = []
    for one in standing:
        given = ImageRecipe.from_json(one.canonical).made_from
        question = repr((given.glance, sorted(given.properties.items())))
        if question not in found:
            found[question] = _newest(given, config)
        if (newest := found[question]) is None:
            continue
        event, pin = newest
        if _created(event) < _created_of(database, one, pin, config):  # in the same second, the one picked now wins
            continue
        if database.transact(functools.partial(_tell_or_ask, one=one, event=event, pin=pin)):
            LOG.info("%s: %s in Glance is newer than what it was built from", one.image, event.subject)
            asked.append(one.image)
    return asked


def activation(image: GlanceImage) -> Event:
    """The event that Glance sends when an image has got its data."""
    data: dict[str, Any] = {key: image.data.get(key) for key in _TOLD}
    data["properties"] = {
        key: value for key, value in image.data.items() if key not in (*_TOLD, *_LINKS) and isinstance(value, str)
    }
    data["is_public"] = data["visibility"] == "public"
    data |= {"deleted": False, "deleted_at": None}
    identity = f"image:{image.id}:{image.data.get('checksum') or ''}"
    return Event("glance", identity, ACTIVATE, subject=image.name, time=_moment(data["updated_at"]), data=data)


def _newer_parent(conn: Connection, image: str, parent: str) -> str | None:
    """The digest of the parent's newest version, if the image should have been rebuilt for it and never was requested."""
    newest = next(iter(versions.select(conn, parent, limit=1)), None)
    last = builds.latest(conn, image)
    if newest is None or last is None or newest.created <= last.created or newest.digest in last.pins.values():
        return None
    published = events.known(conn, OWN, published_id(newest.build_id))
    if published is not None and any(one.image == image for one in reactions.of_events(conn, [published])):
        return None
    return None if builds.same_content(conn, image, parent) else newest.digest


def _ask_for(conn: Connection, image: str, parent: str) -> bool:
    digest = _newer_parent(conn, image, parent)
    if digest is None:
        return False
    return _ask(conn, image, f"{parent}:{digest}", f"{parent} had a new version while imageflow did not look", parent)


def _ask(conn: Connection, image: str, behind: str, why: str, parent: str | None = None) -> bool:
    """Request an image, with an event of our own, once per state that it is behind; -> whether this was the first time."""
    now = time.time()
    data = {"why": why, "parent": parent}
    event = Event(OWN, f"behind:{image}:{behind}", BEHIND, subject=image, time=now, data=data)
    [(stored, new)] = events.add(conn, [event], listener="imageflow", now=now, verdict=Verdict.MATCHED, reason=image)
    if new:
        reactions.add(conn, stored.seq, image, why, now, parent)
        rebuilds.ask(conn, image, now)
    return new


def _standing(conn: Connection) -> list[_Standing]:
    wanting = {
        one.image
        for one in registry.triggers_of_kind(conn, "event")
        if one.type == ACTIVATE or any(mark in one.type for mark in "*?[")
    }
    found = []
    for name in sorted(wanting):
        canonical = registry.of_image(conn, name)[1]
        image = ImageRecipe.from_json(canonical)
        if image.made_from.glance and not is_id(image.made_from.glance):
            found.append(_Standing(name, source_name(image), canonical))
    return found


def _is_built(conn: Connection, one: _Standing) -> bool:
    """Whether there is a build that may be behind; an image that was never built is not rebuilt."""
    last = builds.latest(conn, one.image)
    return last is not None and one.pin in last.pins


def _newest(given: MadeFrom, config: Config) -> tuple[Event, str] | None:
    try:
        image = glance.newest(given, config)
    except RecipeError:
        return None
    if image.says(BUILD):  # our own publication, as in matching.py
        return None
    return activation(image), str(glance.Pinned(image.id, image.hash))


def _created(event: Event) -> float:
    return _moment(event.data["created_at"]) or 0.0


def _created_of(database: Database, one: _Standing, pin: str, config: Config) -> float:
    """When the Glance image used by the last build was created; if that image is gone, when the build was."""
    with database.read() as conn:
        last = builds.latest(conn, one.image)
    if last is None:
        return time.time()
    before = str(last.pins[one.pin])
    if before == pin:
        return time.time()
    image = glance.image(glance.Pinned.of(before).id, config)
    return last.created if image is None else _moment(image.data.get("created_at")) or 0.0


def _tell_or_ask(conn: Connection, one: _Standing, event: Event, pin: str) -> bool:
    """Put the event into the inbox, as if Glance had sent it; or request again where it came too early."""
    if not any(triggers.explain(rule, event) for rule in triggers.triggers_of(one.canonical)):
        return False
    seq = events.known(conn, event.source, event.id)
    if seq is None:
        events.add(conn, [event], listener="imageflow", now=time.time())
        return True
    if events.get(conn, seq).verdict is None:
        return False
    if any(r.image == one.image and r.outcome not in _IN_VAIN for r in reactions.of_events(conn, [seq])):
        return False
    why = f"{ACTIVATE}: {event.subject} in Glance is newer than what {one.image} was built from"
    return _ask(conn, one.image, pin, why)


def _moment(text: object) -> float | None:
    """Seconds since the epoch of a time from Glance, which is UTC."""
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
