"""The inbox's rows: events as received, each once, and their outcomes."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from imageflow.errors import Conflict, NotFound
from imageflow.model import Event, Verdict
from imageflow.persistence import proofs
from imageflow.persistence.tables import events, reactions
from imageflow.persistence.upsert import insert_or_change_all

_FIELDS = [f.name for f in fields(Event)]
_COLUMNS = [events.c[name] for name in _FIELDS]
_CHUNK = 500  # values in one IN (…)
_ONE_MORE: Mapping[str, Any] = {
    "deliveries": sa.literal_column("events.deliveries + 1")
}  # without a parameter: PyMySQL rewrites the rest


def _event(row: sa.Row[Any]) -> Event:
    values = {name: row._mapping[name] for name in _FIELDS if name in row._mapping}
    values["verdict"] = Verdict(values["verdict"]) if values["verdict"] else None
    return Event(**values)


def size(event: Event) -> int:
    """Bytes of what its sender wrote."""
    texts = (json.dumps(event.data), event.source, event.id, event.subject or "")
    return sum(len(text.encode(errors="surrogatepass")) for text in texts)


def total(conn: sa.Connection) -> tuple[int, int]:
    """Number of the stored events, and bytes of all together."""
    count, all = conn.execute(sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(events.c.size), 0))).one()
    return int(count), int(all)


def digest(source: str, id: str) -> str:
    """The unique index's key for an event: source and id may be longer than an index allows."""
    return hashlib.sha256(f"{source}\0{id}".encode(errors="surrogatepass")).hexdigest()


def add(
    conn: sa.Connection,
    batch: Sequence[Event],
    *,
    now: float,
    listener: str = "",
    proof: str | None = None,
    verdict: Verdict | None = None,
    reason: str | None = None,
) -> list[tuple[Event, bool]]:
    """Store events, each once; -> each as stored, and whether it is new. A known one is counted.

    `listener` is the receiver of those that name none; `proof` is for a batch of one.
    """
    keys = [digest(event.source, event.id) for event in batch]
    rows = [
        {
            "digest": key,
            "proof": proof,
            "source": event.source,
            "id": event.id,
            "type": event.type,
            "subject": event.subject,
            "time": event.time,
            "data": event.data,
            "listener": event.listener or listener,
            "received": now,
            "deliveries": 1,
            "verdict": verdict.value if verdict else None,
            "reason": reason,
            "size": size(event),
        }
        for key, event in zip(keys, batch, strict=True)
    ]
    if not rows:
        return []
    insert_or_change_all(conn, events, rows, "digest", _ONE_MORE)
    stored = {
        row.digest: _event(row)
        for some in _chunks(keys)
        for row in conn.execute(sa.select(events.c.digest, *_COLUMNS).where(events.c.digest.in_(some)))
    }
    if not stored.keys() >= set(keys):  # MariaDB counted the event that has this proof instead
        raise Conflict("another event came with the same proof")
    here = Counter(keys)
    told: set[str] = set()
    found = []
    for key in keys:
        new = stored[key].deliveries == here[key] and key not in told
        told.add(key)
        found.append((stored[key], new))
    return found


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _CHUNK):
        yield keys[start : start + _CHUNK]


def known(conn: sa.Connection, source: str, id: str) -> int | None:
    """The seq of the event with this source and id, if there is one."""
    found: int | None = conn.execute(sa.select(events.c.seq).where(events.c.digest == digest(source, id))).scalar()
    return found


def proven(conn: sa.Connection, proof: str, but: str) -> bool:
    """Whether an event other than the one with the digest `but` has this proof."""
    other = sa.select(events.c.seq).where(events.c.proof == proof, events.c.digest != but)
    return conn.execute(other).first() is not None


def is_repeated(conn: sa.Connection, event: Event) -> bool:
    """Whether the event was proven by a signature that another delivery had before."""
    query = sa.select(events.c.proof).where(events.c.digest == digest(event.source, event.id))
    return proofs.is_again(conn.execute(query).scalar())


def waiting(conn: sa.Connection, limit: int = 200) -> list[Event]:
    """Events without a verdict, oldest first."""
    query = sa.select(*_COLUMNS).where(events.c.verdict.is_(None)).order_by(events.c.seq).limit(limit)
    return [_event(row) for row in conn.execute(query)]


def announced(conn: sa.Connection, type: str, subjects: Sequence[str]) -> str | None:
    """One of these subjects that has an event of this type without a verdict."""
    found: str | None = conn.execute(
        sa.select(events.c.subject)
        .where(events.c.verdict.is_(None), events.c.type == type, events.c.subject.in_(subjects))
        .limit(1)
    ).scalar()
    return found


def judge(conn: sa.Connection, seq: int, verdict: Verdict, reason: str | None) -> bool:
    """Give an event its verdict; -> False when it already has one: another process was faster."""
    statement = sa.update(events).where(events.c.seq == seq, events.c.verdict.is_(None))
    return conn.execute(statement.values(verdict=verdict.value, reason=reason)).rowcount == 1


def reopen(conn: sa.Connection, seq: int) -> None:
    """Remove an event's verdict: it is processed again."""
    conn.execute(sa.delete(reactions).where(reactions.c.event == seq, reactions.c.open.is_(False)))
    conn.execute(sa.update(events).where(events.c.seq == seq).values(verdict=None, reason=None))


def get(conn: sa.Connection, seq: int) -> Event:
    """Raises NotFound."""
    row = conn.execute(sa.select(*_COLUMNS).where(events.c.seq == seq)).first()
    if row is None:
        raise NotFound(f"there is no event {seq}", hint="see 'imageflow event list'")
    return _event(row)


def select(
    conn: sa.Connection,
    *,
    type: str | None = None,
    verdict: Verdict | None = None,
    waiting: bool = False,
    after: int = 0,
    limit: int = 50,
) -> list[Event]:
    """Events, newest first."""
    query = sa.select(*_COLUMNS).where(events.c.seq > after).order_by(events.c.seq.desc()).limit(limit)
    if type is not None:
        query = query.where(events.c.type == type)
    if waiting:
        query = query.where(events.c.verdict.is_(None))
    elif verdict is not None:
        query = query.where(events.c.verdict == verdict.value)
    return [_event(row) for row in conn.execute(query)]


def last(conn: sa.Connection) -> int:
    """The seq of the newest event, 0 without any."""
    found: int = conn.execute(sa.select(sa.func.coalesce(sa.func.max(events.c.seq), 0))).scalar_one()
    return found


def of_types(conn: sa.Connection, types: Sequence[str], *, after: int, limit: int) -> list[Event]:
    """The events of these types that arrived after that one, oldest first."""
    query = sa.select(*_COLUMNS).where(events.c.seq > after, events.c.type.in_(types))
    return [_event(row) for row in conn.execute(query.order_by(events.c.seq).limit(limit))]


def prune(conn: sa.Connection, before: float = math.inf, limit: int = 1000) -> int:
    """Remove the oldest events received before that moment that have a verdict and no waiting reaction; -> how many.

    Their proofs stay (persistence/proofs.py).
    """
    busy = sa.exists().where(reactions.c.event == events.c.seq, reactions.c.open.is_(True))
    when = () if before == math.inf else (events.c.received < before,)
    rows = conn.execute(
        sa.select(events.c.seq, events.c.digest, events.c.proof, events.c.received)
        .where(*when, events.c.verdict.is_not(None), ~busy)
        .order_by(events.c.received)
        .limit(limit)
    ).all()
    for row in rows:
        if row.proof is not None and not proofs.is_again(row.proof):
            proofs.remember(conn, row.proof, row.digest, row.seq, row.received)
    old = [row.seq for row in rows]
    for start in range(0, len(old), _CHUNK):
        conn.execute(sa.delete(events).where(events.c.seq.in_(old[start : start + _CHUNK])))
    return len(old)
