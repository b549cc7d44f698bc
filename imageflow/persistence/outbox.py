"""The outbox: announcements, written in the transaction that made them true, and their deliveries to each target."""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from enum import Enum
from typing import Any

import sqlalchemy as sa

from imageflow.errors import Conflict, NotFound
from imageflow.model import ENDED, Announcement, Build, Delivery, DeliveryState, Version
from imageflow.persistence import leases
from imageflow.persistence.database import clock
from imageflow.persistence.tables import builds, deliveries, outbox
from imageflow.persistence.upsert import insert_or_keep, insert_or_update

BUILD = ("start", "pause", "resume", "end", "error")
IMAGE = ("publish", "delete", "missing", "restore")
_NAMES = uuid.UUID("0d5e2d0f-6e0c-5f0e-9a3c-6a1f6f2f7c11")  # for the ids that are made here
_COLUMNS = [outbox.c[f.name] for f in fields(Announcement)]
_TOLD = [
    "id",
    "image",
    "method",
    "state",
    "reason",
    "key",
    "forced",
    "host",
    "step",
    "error",
    "hint",
    "digest",
    "created",
    "started",
    "ended",
    "paused",
]
_TIMES = ("created", "started", "ended", "paused")
_DELIVERY = [
    deliveries.c[name].label(f"delivery_{name}")
    for name in ("target", "state", "since", "attempts", "next", "sent", "error")
]
_JOINED = sa.select(*_COLUMNS, *_DELIVERY).select_from(deliveries.join(outbox, outbox.c.seq == deliveries.c.seq))


# -- writing, in the transaction of what is announced --------------------------------------------


def announce_build(conn: sa.Connection, targets: Sequence[str], what: str, build: Build, **more: Any) -> None:
    """Announce what a build did to the targets: start, pause, resume, end, error.

    The build is described as this transaction leaves it: call this after changing it. `more`, JSON, is added.
    The same thing twice in a row is one announcement, so a transaction may run twice. Without targets nothing happens.
    """
    assert what in BUILD, what
    if not targets:
        return
    row = conn.execute(sa.select(*(builds.c[name] for name in _TOLD)).where(builds.c.id == build.id)).first()
    now = dict(row._mapping) if row else {name: getattr(build, name) for name in _TOLD}
    _put(conn, targets, f"imageflow.build.{what}", build.id, {**build_data(now), **more})


def announce_image(conn: sa.Connection, targets: Sequence[str], what: str, version: Version, **more: Any) -> None:
    """Announce what happened to an image version: publish, delete, missing, restore. As `announce_build`."""
    assert what in IMAGE, what
    if targets:
        _put(conn, targets, f"imageflow.image.{what}", version.build_id, {**image_data(version), **more})


def build_data(build: Mapping[str, Any]) -> dict[str, Any]:
    """The announced data of a build: no recipe and no pins; times as RFC 3339, `duration` in seconds."""
    data = {name: value.value if isinstance(value := build[name], Enum) else value for name in _TOLD}
    data |= {name: moment(data[name]) for name in _TIMES}
    began, ended = build["started"], build["ended"]
    data["duration"] = None if began is None or ended is None else round(ended - began, 3)
    return data


def image_data(version: Version) -> dict[str, Any]:
    """The announced data of an image version; sizes in bytes, digests are SHA-256."""
    return {
        "name": version.image,
        "digest": version.digest,
        "content": version.content,
        "build": version.build_id,
        "key": version.key,
        "store": version.store,
        "path": version.path,
        "artifacts": [asdict(artifact) for artifact in version.artifacts],
        "properties": dict(version.properties),
        "packages": version.packages,
        "created": moment(version.created),
        "why": version.why,
    }


def moment(seconds: float | None) -> str | None:
    """Seconds since the epoch as RFC 3339, UTC, to the millisecond."""
    if seconds is None:
        return None
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _put(conn: sa.Connection, targets: Sequence[str], kind: str, build_id: str, data: dict[str, Any]) -> None:
    before = conn.execute(
        sa.select(outbox.c.id)
        .where(outbox.c.build_id == build_id, outbox.c.type != kind)
        .order_by(outbox.c.seq.desc())
        .limit(1)
    ).scalar()
    # Named after the previous announcement: twice in a row gives the same name, a second pause another one.
    id = str(uuid.uuid5(_NAMES, f"{build_id} {kind} {before or ''}"))
    now = time.time()
    values = {"id": id, "build_id": build_id, "type": kind, "time": now, "data": data}
    insert_or_keep(conn, outbox, values, key="id")
    seq = conn.execute(sa.select(outbox.c.seq).where(outbox.c.id == id)).scalar_one()
    for target in dict.fromkeys(targets):
        delivery = {"seq": seq, "target": target, "state": DeliveryState.WAITING, "since": clock(conn.dialect.name)}
        insert_or_update(conn, deliveries, delivery, key=["seq", "target"], change={"target": target})


# -- sending -------------------------------------------------------------------------------------


_EARLIER, _ABOUT = deliveries.alias("earlier"), outbox.alias("about")


def _due(conn: sa.Connection, target: str, owner: str) -> sa.Select[Any]:
    """The delivery that may be sent next: the oldest one whose build has no earlier one waiting."""
    waits = (
        sa.select(sa.literal(1))
        .where(_EARLIER.c.seq == _ABOUT.c.seq, _EARLIER.c.target == target, _EARLIER.c.state == DeliveryState.WAITING)
        .correlate(_ABOUT)
        .exists()
    )
    unsent = (  # nested, so that each database looks at the build's few deliveries, and not at all waiting ones
        sa.select(sa.literal(1))
        .where(_ABOUT.c.build_id == outbox.c.build_id, _ABOUT.c.seq < outbox.c.seq, waits)
        .correlate(outbox)
        .exists()
    )
    return (
        _JOINED.where(deliveries.c.target == target, deliveries.c.state == DeliveryState.WAITING)
        .where(leases.due(deliveries.c.next, conn.dialect.name), ~unsent)
        .where(leases.free(deliveries, conn.dialect.name, owner))
        .order_by(deliveries.c.seq)
        .limit(1)
    )


def _delivery(row: sa.Row[Any]) -> Delivery:
    values = dict(row._mapping)
    own = {name.removeprefix("delivery_"): values.pop(name) for name in list(values) if name.startswith("delivery_")}
    return Delivery(announcement=Announcement(**values), **own)


def due(conn: sa.Connection, target: str) -> bool:
    """Whether there is something to send; cheap, and writes nothing."""
    return conn.execute(_due(conn, target, "")).first() is not None


def take(conn: sa.Connection, target: str, owner: str, lease: float) -> Delivery | None:
    """The delivery that this owner, and no other for `lease` seconds, may send next; at most one per build is in progress."""
    while (row := conn.execute(_due(conn, target, owner)).first()) is not None:
        this = (deliveries.c.seq == row.seq, deliveries.c.target == target, deliveries.c.state == DeliveryState.WAITING)
        if leases.take(conn, deliveries, owner, lease, *this, again=True):
            return _delivery(row)
    return None


def sent(conn: sa.Connection, delivery: Delivery, owner: str) -> bool:
    """The target has it; -> whether it was still ours."""
    values = {"state": DeliveryState.SENT, "sent": clock(conn.dialect.name), "error": None}
    return _settle(conn, delivery, owner, attempts=deliveries.c.attempts + 1, **values)


def failed(conn: sa.Connection, delivery: Delivery, owner: str, error: str, wait: float) -> bool:
    """The target refused it: again after `wait` seconds."""
    again = clock(conn.dialect.name) + wait
    return _settle(conn, delivery, owner, attempts=deliveries.c.attempts + 1, next=again, error=error)


def put_back(conn: sa.Connection, delivery: Delivery, owner: str, error: str | None = None) -> bool:
    """The target is down, or we stop: that says nothing about this announcement."""
    return _settle(conn, delivery, owner, **({} if error is None else {"error": error}))


def bury(conn: sa.Connection, delivery: Delivery, owner: str, error: str) -> bool:
    """Move it to the dead letters, until an operator replays it; the next ones of its build continue."""
    return _settle(conn, delivery, owner, attempts=deliveries.c.attempts + 1, state=DeliveryState.DEAD, error=error)


def _settle(conn: sa.Connection, delivery: Delivery, owner: str, **values: Any) -> bool:
    seq, target = delivery.announcement.seq, delivery.target
    this = (deliveries.c.seq == seq, deliveries.c.target == target, deliveries.c.state == DeliveryState.WAITING)
    return leases.release(conn, deliveries, owner, *this, **values)


def give_up(conn: sa.Connection, age: float) -> int:
    """Move what waits longer than `age` seconds to the dead letters, also for targets no longer in use."""
    old = (deliveries.c.state == DeliveryState.WAITING, deliveries.c.since < clock(conn.dialect.name) - age)
    free = leases.free(deliveries, conn.dialect.name)
    error = sa.func.coalesce(deliveries.c.error, "it could not be sent in time")
    return conn.execute(
        sa.update(deliveries).where(*old, free).values(state=DeliveryState.DEAD, owner=None, error=error)
    ).rowcount


# -- operating -----------------------------------------------------------------------------------


def select(
    conn: sa.Connection, *, states: Sequence[DeliveryState] = (), target: str | None = None, limit: int | None = None
) -> list[Delivery]:
    """The deliveries, newest first."""
    query = _JOINED
    if states:
        query = query.where(deliveries.c.state.in_(states))
    if target is not None:
        query = query.where(deliveries.c.target == target)
    query = query.order_by(deliveries.c.seq.desc(), deliveries.c.target).limit(limit)
    return [_delivery(row) for row in conn.execute(query)]


def counts(conn: sa.Connection) -> dict[tuple[str, DeliveryState], int]:
    """The number of deliveries: (target, state) -> number."""
    query = sa.select(deliveries.c.target, deliveries.c.state, sa.func.count()).group_by(
        deliveries.c.target, deliveries.c.state
    )
    return {(target, state): number for target, state, number in conn.execute(query)}


def replay(conn: sa.Connection, id: str | None = None, target: str | None = None) -> int:
    """Send one announcement again (by its id or a prefix of it), or all dead letters; -> the number of deliveries.

    Raises NotFound, and Conflict when all of the announcement's deliveries are already waiting.
    """
    where: list[sa.ColumnElement[bool]] = []
    if target is not None:
        where.append(deliveries.c.target == target)
    if id is None:
        where.append(deliveries.c.state == DeliveryState.DEAD)
    else:
        seq = _find(conn, id)
        where.append(deliveries.c.seq == seq)
        if conn.execute(sa.select(sa.literal(1)).select_from(deliveries).where(*where)).first() is None:
            raise NotFound(f"announcement {id} does not go to {target!r}", hint="see 'imageflow outbox list'")
        where.append(deliveries.c.state != DeliveryState.WAITING)
    values = {
        "state": DeliveryState.WAITING,
        "since": clock(conn.dialect.name),
        "attempts": 0,
        "next": 0.0,
        "sent": None,
    }
    number = conn.execute(sa.update(deliveries).where(*where).values(**values, **leases.NOBODY)).rowcount
    if id is not None and not number:
        raise Conflict(f"announcement {id} is already waiting to be sent", hint="see 'imageflow outbox list'")
    return number


def _find(conn: sa.Connection, id: str) -> int:
    hint = "see 'imageflow outbox list'"
    low = id.lower()
    if len(low) < 4 or set(low) - set("0123456789abcdef-"):
        raise NotFound(f"there is no announcement {id!r}", hint=hint)
    found = conn.execute(sa.select(outbox.c.seq).where(outbox.c.id >= low, outbox.c.id < low + "g").limit(2)).all()
    if not found:
        raise NotFound(f"there is no announcement {id!r}", hint=hint)
    if len(found) > 1:
        raise NotFound(f"several announcements begin with {id!r}", hint="give more digits")
    return int(found[0].seq)


def prune(conn: sa.Connection, age: float, dead: float, limit: int = 500) -> int:
    """Forget the announcements of ended builds, once all of a build were sent `age` seconds ago; -> how many.

    Those of a build go together: the names of later ones derive from the earlier ones. Those that were given up stay
    `dead` seconds after they were to be sent.
    """
    now = clock(conn.dialect.name)
    waits = sa.or_(
        deliveries.c.state == DeliveryState.WAITING,
        sa.and_(deliveries.c.state == DeliveryState.SENT, deliveries.c.sent > now - age),
        sa.and_(deliveries.c.state == DeliveryState.DEAD, deliveries.c.since > now - dead),
    )
    about = outbox.alias("about")
    needed = (
        sa.select(sa.literal(1))
        .select_from(about.join(deliveries, deliveries.c.seq == about.c.seq))
        .where(about.c.build_id == outbox.c.build_id)
        .where(waits)
        .correlate(outbox)
        .exists()
    )
    goes_on = (
        sa.select(sa.literal(1))
        .where(builds.c.id == outbox.c.build_id, builds.c.state.not_in([state.value for state in ENDED]))
        .correlate(outbox)
        .exists()
    )
    done = list(conn.execute(sa.select(outbox.c.build_id).distinct().where(~needed, ~goes_on).limit(limit)).scalars())
    if not done:
        return 0
    return conn.execute(sa.delete(outbox).where(outbox.c.build_id.in_(done))).rowcount
