"""From events to what they ask for: each gets its verdict, and the images that wanted it their reactions."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from imageflow import recipe_events, triggers
from imageflow.cloudevent import OWN
from imageflow.errors import ImageflowError
from imageflow.model import Event, Verdict, Version
from imageflow.openstack.image import BUILD
from imageflow.persistence import events, origins, reactions, rebuilds, registry
from imageflow.persistence.database import Database
from imageflow.triggers import CHANGED, PUBLISH

LOG = logging.getLogger(__name__)
BEHIND = "imageflow.reconcile"  # an image is behind what it stands on; its subject is the image
_LONG = 500  # characters of a pin's name, and of its value
_MANY = 50  # events of one transaction


@dataclass(frozen=True, slots=True)
class Match:
    """One image that wants an event."""

    image: str
    reason: str
    parent: str | None  # the image whose new version the event is about, when that is why
    said: Mapping[str, str]  # what the event says about the image's inputs: name of the pin -> value


def published(version: Version) -> Event:
    """The event that an image has a new version."""
    return Event(
        source=OWN,
        id=f"publish:{version.build_id}",
        type=PUBLISH,
        subject=version.image,
        time=version.created,
        data={
            "image": version.image,
            "build": version.build_id,
            "digest": version.digest,
            "content": version.content,
            "store": version.store,
            "properties": dict(version.properties),
        },
    )


def match(conn: Connection, event: Event) -> tuple[list[Match], str | None]:
    """The images that want this event, each once, or why there are none. Changes nothing."""
    if _ours(event):
        return [], "our own publication: what stands on it is rebuilt by the cascade"
    found = {image: Match(image, why, None, {}) for image, why in recipe_events.asked_by(event).items()}
    if event.source == OWN and event.type == BEHIND and event.subject:
        above = event.data.get("parent")
        why = str(event.data.get("why") or f"{above} had a new version when nobody looked")
        found[event.subject] = Match(event.subject, why, above, {})
    for image in origins.homeless(conn, found):
        del found[image]
    for trigger in registry.candidates(conn, triggers.probes(event)):
        reason = triggers.explain(trigger, event)
        if reason is None:
            continue
        parent = event.subject if trigger.kind == "image" else None
        if trigger.image not in found or found[trigger.image].parent is not None:
            found[trigger.image] = Match(trigger.image, reason, parent, _said(event))
    return list(found.values()), None if found else _why_none(conn, event)


def _ours(event: Event) -> bool:
    """Whether it tells of an image that we published, as a store tells it."""
    if event.type == PUBLISH or not isinstance(event.data, dict):
        return False
    properties = event.data.get("properties")
    return BUILD in event.data or (isinstance(properties, dict | list) and BUILD in properties)


def _said(event: Event) -> dict[str, str]:
    """The inputs that only the event tells of: a commit, the content of something watched. Bases pin themselves."""
    data = event.data if isinstance(event.data, dict) else {}
    after = data.get("after")
    if not isinstance(after, str) or not after:
        return {}
    if event.type in ("git.push", "git.tag"):
        owner = f"{data['owner']}/" if data.get("owner") else ""
        return {_plain(f"git:{owner}{data.get('repository')}#{data.get('ref')}"): _plain(after)}
    if event.type == CHANGED and data.get("input") not in ("base", "iso"):
        return {_plain(f"watch:{data.get('input')}"): _plain(after)}
    return {}


def _plain(text: str) -> str:
    """What every database can hold; of another text its digest, which tells it from others as well."""
    if len(text) <= _LONG and text.isprintable():
        return text
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def _why_none(conn: Connection, event: Event) -> str:
    if event.type == PUBLISH:
        return f"no registered image stands on {event.subject}"
    if event.type == recipe_events.CHANGED:
        return "no image that events build became another one by it"
    wanted = registry.wanting(conn, event.type)
    if wanted:
        return f"{wanted} trigger{'s' if wanted > 1 else ''} for {event.type}, none with these values"
    return f"no registered recipe has a trigger for {event.type}"


def match_waiting(database: Database, seconds: float = math.inf) -> int:
    """Give every event that waits its verdict; -> how many there were. Any number of processes may do it at once.

    After so many seconds the rest is left for the next time.
    """
    end, done = time.monotonic() + seconds, 0
    while True:
        with database.read() as conn:
            waiting = events.waiting(conn, _MANY)
        if not waiting:
            return done
        try:
            database.transact(functools.partial(_judge_all, waiting=waiting))
        except ImageflowError:
            raise
        except Exception:  # noqa: BLE001 - one of them must not hold the others up
            _judge_each(database, waiting)
        done += len(waiting)
        if time.monotonic() > end:
            return done


def _judge_each(database: Database, waiting: Sequence[Event]) -> None:
    """One by one; an event that makes us stumble is put aside, where it is seen and can be replayed."""
    for event in waiting:
        try:
            database.transact(functools.partial(_judge_all, waiting=[event]))
        except ImageflowError:
            raise
        except Exception as error:
            if isinstance(error, sa.exc.OperationalError | sa.exc.ProgrammingError):
                raise  # the database has something, not the event
            LOG.exception("event %d can't be matched, it is in quarantine", event.seq)
            why = f"a bug in imageflow, see its log: {type(error).__name__}"
            database.transact(functools.partial(events.judge, seq=event.seq, verdict=Verdict.QUARANTINED, reason=why))


def _judge_all(conn: Connection, waiting: Sequence[Event]) -> None:
    now = time.time()
    for event in waiting:
        matches, why_none = match(conn, event)
        verdict = Verdict.MATCHED if matches else Verdict.NO_TRIGGER
        reason = ", ".join(one.image for one in matches) if matches else why_none
        if not events.judge(conn, event.seq, verdict, reason):
            continue  # another process was faster
        recipe_events.notice(conn, event)
        for one in matches:
            reactions.add(conn, event.seq, one.image, one.reason, now, one.parent)
            rebuilds.ask(conn, one.image, now)
            registry.learn(conn, one.image, one.said, event.seq)
