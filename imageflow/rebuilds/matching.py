"""Matches events with triggers: each event gets its verdict, and the images that want it get reactions."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from imageflow.errors import ImageflowError
from imageflow.events import commits, triggers
from imageflow.events.own import BEHIND, CHANGED, OWN, PUBLISH
from imageflow.inputs.pins import Kind, pin_name
from imageflow.model import Event, Verdict
from imageflow.openstack.image import BUILD
from imageflow.persistence import events, git_origins, reactions, rebuilds, registry
from imageflow.persistence.database import Database
from imageflow.rebuilds.heads import Move, keep, plain, weigh
from imageflow.registry import change_events

LOG = logging.getLogger(__name__)
_MANY = 50  # events per transaction


@dataclass(frozen=True, slots=True)
class Match:
    """One image that wants an event."""

    image: str
    reason: str
    parent: str | None  # the image whose new version the event is about, if that is the reason
    said: Mapping[str, str]  # what the event says about the image's inputs: name of the pin -> value
    rule: str | None = None  # of the trigger that wants it


def match(conn: Connection, event: Event) -> tuple[list[Match], str | None]:
    """The images that want this event, each once, or why there are none. Changes nothing."""
    return _match(conn, event, weigh(conn, event))


def _match(conn: Connection, event: Event, move: Move | None) -> tuple[list[Match], str | None]:
    if _ours(event):
        return [], "our own publication: the cascade rebuilds the images based on it"
    found = {image: Match(image, why, None, {}) for image, why in change_events.asked_by(event).items()}
    if event.source == OWN and event.type == BEHIND and event.subject:
        above = event.data.get("parent")
        found[event.subject] = Match(event.subject, str(event.data.get("why")), above, {})
    for image in git_origins.homeless(conn, found):
        del found[image]
    for trigger in registry.candidates(conn, triggers.probes(event)):
        reason = triggers.explain(trigger, event)
        if reason is None:
            continue
        parent = event.subject if trigger.kind == "image" else None
        if trigger.image not in found or found[trigger.image].parent is not None:
            if move is not None and move.remark:
                reason = f"{reason}; {move.remark}"
            found[trigger.image] = Match(trigger.image, reason, parent, _said(event, move), registry.rule(trigger))
    return list(found.values()), None if found else _why_none(conn, event)


def _ours(event: Event) -> bool:
    """Whether it is a store's event about an image that we published."""
    if event.type == PUBLISH or not isinstance(event.data, dict):
        return False
    properties = event.data.get("properties")
    return BUILD in event.data or (isinstance(properties, dict | list) and BUILD in properties)


def _said(event: Event, move: Move | None) -> dict[str, str]:
    """Inputs known only from the event: a commit, the content of a watched input. Bases pin themselves."""
    if event.type == CHANGED:
        data = event.data if isinstance(event.data, dict) else {}
        after = data.get("after")
        if not isinstance(after, str) or not after or data.get("input") in ("base", "iso"):
            return {}
        return {plain(pin_name(Kind.WATCH, f"{data.get('input')}")): plain(after)}
    if move is None or move.value is None:
        return {}
    return {plain(pin_name(Kind.GIT, move.commit.name)): plain(move.value)}


def _why_none(conn: Connection, event: Event) -> str:
    if event.type == PUBLISH:
        return f"no registered image stands on {event.subject}"
    if event.type == change_events.CHANGED:
        return "it changed no image that events build"
    wanted = registry.wanting(conn, event.type)
    if wanted:
        return f"{wanted} trigger{'s' if wanted > 1 else ''} for {event.type}, none with these values"
    return f"no registered recipe has a trigger for {event.type}"


def match_waiting(database: Database, seconds: float = math.inf) -> int:
    """Give every waiting event its verdict; -> how many there were. Any number of processes may do it at once.

    After `seconds` the rest is left for the next time.
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
    """One by one; an event that raises a bug is put into quarantine, where it is seen and can be replayed."""
    for event in waiting:
        try:
            database.transact(functools.partial(_judge_all, waiting=[event]))
        except ImageflowError:
            raise
        except Exception as error:
            if isinstance(error, sa.exc.OperationalError | sa.exc.ProgrammingError):
                raise  # the database has a problem, not the event
            LOG.exception("event %d can't be matched, it is in quarantine", event.seq)
            why = f"a bug in imageflow, see its log: {type(error).__name__}"
            database.transact(functools.partial(events.judge, seq=event.seq, verdict=Verdict.QUARANTINED, reason=why))


def _judge_all(conn: Connection, waiting: Sequence[Event]) -> None:
    now = time.time()
    for event in waiting:
        move = weigh(conn, event, hold=True)
        matches, why_none = _match(conn, event, move)
        verdict = Verdict.MATCHED if matches else Verdict.NO_TRIGGER
        reason = ", ".join(one.image for one in matches) if matches else why_none
        if not events.judge(conn, event.seq, verdict, reason):
            continue  # another process was faster
        change_events.notice(conn, event)
        if move is not None and (matches or move.known):
            keep(conn, event, move, now)
        if move is not None and move.gone:
            registry.unlearn(conn, plain(pin_name(Kind.GIT, move.commit.name)))
        for one in matches:
            reactions.add(conn, event.seq, one.image, one.reason, now, one.parent)
            rebuilds.ask(conn, one.image, now)
            registry.learn(conn, one.image, _news(conn, one), event.seq, one.rule)


def _news(conn: Connection, one: Match) -> dict[str, str]:
    """What the event says; a commit that is known in another length stays as it is, as it is no other input."""
    known = registry.learnt(conn, one.image) if one.said else {}
    return {
        name: value
        for name, value in one.said.items()
        if known.get(name) == value or not commits.same(known.get(name), value)
    }
