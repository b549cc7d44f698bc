"""Images in Glance that something of ours stands on, and that are newer than what it was built from: nobody told of them.

What is made up for is Glance's own notification, under its own identity: where that comes as well, it is one event.
"""

from __future__ import annotations

import datetime
import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from imageflow import triggers
from imageflow.cloudevent import OWN
from imageflow.config import Config
from imageflow.errors import RecipeError
from imageflow.matching import BEHIND
from imageflow.model import Event, Json, Outcome, Verdict
from imageflow.openstack.image import BUILD
from imageflow.persistence import builds, events, reactions, rebuilds, registry
from imageflow.persistence.database import Database
from imageflow.pins import glance, source_name
from imageflow.recipe import ImageRecipe
from imageflow.recipe.inputs import is_id

if TYPE_CHECKING:
    from imageflow.openstack.image import Image

LOG = logging.getLogger(__name__)
ACTIVATE = "glance.image.activate"
_TOLD = (  # what a notification says of an image; everything else are its properties
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
_IN_VAIN = (Outcome.REUSED, Outcome.UNCHANGED)  # it was looked at before Glance would have said so


@dataclass(frozen=True, slots=True)
class _Standing:
    """An image that stands on what has this name in Glance."""

    image: str
    pin: str  # its name
    canonical: Json


def ask(database: Database, config: Config) -> list[str]:
    """Ask for the images whose base or ISO in Glance has a newer image, where a trigger wants that; -> those.

    Raises Unavailable when Glance does not answer; without such images it is not asked.
    """
    with database.read() as conn:
        standing = [one for one in _standing(conn) if _is_built(conn, one)]
    found: dict[str, tuple[Event, str] | None] = {}
    asked = []
    for one in standing:
        given = dict(one.canonical.get("base") or one.canonical["iso"])
        question = repr(sorted(given.items()))
        if question not in found:
            found[question] = _newest(given, config)
        if (newest := found[question]) is None:
            continue
        event, pin = newest
        if _created(event) < _created_of(database, one, pin, config):  # of one second, the one that is taken now
            continue
        if database.transact(functools.partial(_ask, one=one, event=event, pin=pin)):
            LOG.info("%s: %s in Glance is newer than what it was built from", one.image, event.subject)
            asked.append(one.image)
    return asked


def activation(image: Image) -> Event:
    """What Glance says when an image has got its data."""
    data: dict[str, Any] = {key: image.data.get(key) for key in _TOLD}
    data["properties"] = {
        key: value for key, value in image.data.items() if key not in (*_TOLD, *_LINKS) and isinstance(value, str)
    }
    data["is_public"] = data["visibility"] == "public"
    data |= {"deleted": False, "deleted_at": None}
    identity = f"image:{image.id}:{image.data.get('checksum') or ''}"
    return Event("glance", identity, ACTIVATE, subject=image.name, time=_moment(data["updated_at"]), data=data)


def _standing(conn: Connection) -> list[_Standing]:
    wanting = {
        one.image
        for one in registry.triggers_of_kind(conn, "event")
        if one.type == ACTIVATE or any(mark in one.type for mark in "*?[")
    }
    found = []
    for name in sorted(wanting):
        canonical = registry.of_image(conn, name)[1]
        given: Mapping[str, Any] = canonical.get("base") or canonical.get("iso") or {}
        if "glance" in given and not is_id(given["glance"]):
            found.append(_Standing(name, source_name(ImageRecipe.from_json(canonical)), canonical))
    return found


def _is_built(conn: Connection, one: _Standing) -> bool:
    """Whether there is a build that may be behind; what never was built nobody waits for."""
    last = builds.latest(conn, one.image)
    return last is not None and one.pin in last.pins


def _newest(given: Json, config: Config) -> tuple[Event, str] | None:
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
    """When the image was created that the last build stands on; of one that is gone, when that build was."""
    with database.read() as conn:
        last = builds.latest(conn, one.image)
    if last is None:
        return time.time()
    before = str(last.pins[one.pin])
    if before == pin:
        return time.time()
    image = glance.image(glance.Pinned.of(before).id, config)
    return last.created if image is None else _moment(image.data.get("created_at")) or 0.0


def _ask(conn: Connection, one: _Standing, event: Event, pin: str) -> bool:
    """Put the event into the inbox, as if Glance had told of it; or ask again where it came too early."""
    now = time.time()
    if not any(triggers.explain(rule, event) for rule in triggers.triggers_of(one.canonical)):
        return False
    seq = events.known(conn, event.source, event.id)
    if seq is None:
        events.add(conn, [event], listener="imageflow", now=now)
        return True
    if events.get(conn, seq).verdict is None:
        return False
    if any(r.image == one.image and r.outcome not in _IN_VAIN for r in reactions.of_events(conn, [seq])):
        return False
    why = f"{ACTIVATE}: {event.subject} in Glance is newer than what {one.image} was built from"
    again = Event(OWN, f"behind:{one.image}:{pin}", BEHIND, subject=one.image, time=now, data={"why": why})
    [(stored, new)] = events.add(
        conn, [again], listener="imageflow", now=now, verdict=Verdict.MATCHED, reason=one.image
    )
    if new:
        reactions.add(conn, stored.seq, one.image, why, now)
        rebuilds.ask(conn, one.image, now)
    return new


def _moment(text: object) -> float | None:
    """Seconds since the epoch of a time of Glance's, which is UTC."""
    try:
        moment = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
