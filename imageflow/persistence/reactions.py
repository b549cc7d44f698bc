"""The reaction of each image to each event: its reason, and its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from imageflow.model import Outcome, Reaction
from imageflow.persistence.tables import reactions

_COLUMNS = [reactions.c[f.name] for f in fields(Reaction)]
_NAMED = 3  # reasons that a build's own reason repeats


def _reaction(row: sa.Row[Any]) -> Reaction:
    values = dict(row._mapping)
    values["outcome"] = Outcome(values["outcome"]) if values["outcome"] else None
    return Reaction(**values)


def add(conn: sa.Connection, event: int, image: str, reason: str, now: float, parent: str | None = None) -> None:
    """Record that an image reacts to an event; once, however many of its triggers match.

    `parent`: the image whose new version the event is about, if that is all it is about.
    """
    known = sa.select(reactions.c.id).where(reactions.c.event == event, reactions.c.image == image)
    if conn.execute(known).first() is None:
        values = {"event": event, "image": image, "reason": reason, "created": now, "open": True, "parent": parent}
        conn.execute(sa.insert(reactions).values(**values))


@dataclass(frozen=True, slots=True)
class Taken:
    """What waited for an image when it was looked at."""

    count: int
    reasons: tuple[str, ...]  # some of them, newest first, each once
    parents: frozenset[str]  # the images whose new versions asked
    only_parents: bool  # there are no other reasons


def take(conn: sa.Connection, image: str, token: str) -> Taken:
    """Mark what waits now, and only that, for an answer."""
    waiting = (reactions.c.image == image, reactions.c.open.is_(True))
    conn.execute(sa.update(reactions).where(*waiting).values(taken=token))
    mine = (*waiting, reactions.c.taken == token)
    count = conn.execute(sa.select(sa.func.count()).where(*mine)).scalar_one()
    newest = sa.select(reactions.c.reason).where(*mine).order_by(reactions.c.id.desc()).limit(50)
    reasons = tuple(dict.fromkeys(conn.execute(newest).scalars()))[:_NAMED]
    parents = set(conn.execute(sa.select(reactions.c.parent).where(*mine).distinct()).scalars())
    named = frozenset(parent for parent in parents if parent is not None)
    return Taken(count, reasons, named, only_parents=None not in parents)


def answer(
    conn: sa.Connection, image: str, token: str, outcome: Outcome, *, build_id: str | None = None, detail: str = ""
) -> int:
    """Record the outcome of the reactions marked with this token; -> how many there were."""
    mine = (reactions.c.image == image, reactions.c.open.is_(True), reactions.c.taken == token)
    values = {"open": False, "outcome": outcome.value, "build_id": build_id, "detail": detail}
    return conn.execute(sa.update(reactions).where(*mine).values(**values)).rowcount


def drop(conn: sa.Connection, image: str, detail: str) -> int:
    """Drop an image's waiting reactions on behalf of an operator or its removed recipe; -> how many waited."""
    waiting = (reactions.c.image == image, reactions.c.open.is_(True))
    values = {"open": False, "outcome": Outcome.DROPPED.value, "detail": detail}
    return conn.execute(sa.update(reactions).where(*waiting).values(**values)).rowcount


def superseded(conn: sa.Connection, old: str, new: str) -> None:
    """The events that a build answers are answered by a newer build, before the old one began."""
    values = {"outcome": Outcome.SUPERSEDED.value, "build_id": new, "detail": f"build {old} never began"}
    conn.execute(sa.update(reactions).where(reactions.c.build_id == old).values(**values))


def waiting(conn: sa.Connection, image: str) -> int:
    """Number of an image's reactions without an outcome."""
    count: int = conn.execute(
        sa.select(sa.func.count()).where(reactions.c.image == image, reactions.c.open.is_(True))
    ).scalar_one()
    return count


def of_events(conn: sa.Connection, events: Sequence[int]) -> list[Reaction]:
    """The reactions to these events, in their order."""
    found: list[Reaction] = []
    for start in range(0, len(events), 500):
        some = reactions.c.event.in_(events[start : start + 500])
        found += [_reaction(row) for row in conn.execute(sa.select(*_COLUMNS).where(some).order_by(reactions.c.id))]
    return found


def of_build(conn: sa.Connection, build_id: str, limit: int = 50) -> list[Reaction]:
    """The reactions that a build answers, newest first."""
    query = sa.select(*_COLUMNS).where(reactions.c.build_id == build_id).order_by(reactions.c.id.desc()).limit(limit)
    return [_reaction(row) for row in conn.execute(query)]


def is_asked_for(conn: sa.Connection, build_id: str) -> bool:
    """Whether only events requested this build, and no user."""
    made = (reactions.c.build_id == build_id, reactions.c.outcome == Outcome.CREATED.value)
    return conn.execute(sa.select(reactions.c.id).where(*made).limit(1)).first() is not None
