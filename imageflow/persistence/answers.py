"""What requests with an Idempotency-Key were answered (draft-ietf-httpapi-idempotency-key-header-07).

The row is written in the transaction of what was asked for: an answer that got lost is given again, for a day at least.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

import sqlalchemy as sa

from imageflow.persistence.tables import api_answers as table

KEEP = 86400.0  # seconds that a client may go on trying
MOST = 100_000  # answers that are kept; the oldest go before their time


@dataclass(frozen=True, slots=True)
class Answered:
    """What a request was answered."""

    request: str  # SHA-256 of what was asked
    location: str
    body: str  # JSON


def find(conn: sa.Connection, project: str, key: str) -> Answered | None:
    """The answer that was given to a request with this key."""
    row = conn.execute(
        sa.select(table.c.request, table.c.location, table.c.body).where(
            table.c.project == project, table.c.name == _name(key)
        )
    ).first()
    return None if row is None else Answered(**row._mapping)


def keep(conn: sa.Connection, project: str, key: str, answered: Answered) -> None:
    """Store an answer. Raises IntegrityError when another request took the key meanwhile."""
    conn.execute(
        sa.insert(table).values(
            project=project,
            name=_name(key),
            request=answered.request,
            location=answered.location,
            body=answered.body,
            created=time.time(),
        )
    )


def forget(conn: sa.Connection, before: float, limit: int = 100) -> int:
    """Remove answers given before that moment, and the oldest of more than MOST; -> how many."""
    most = sa.select(table.c.created).order_by(table.c.created.desc()).offset(MOST).limit(1)
    oldest = max(before, conn.scalar(most) or before)
    old = conn.execute(
        sa.select(table.c.project, table.c.name).where(table.c.created <= oldest).order_by(table.c.created).limit(limit)
    ).all()
    for row in old:
        conn.execute(sa.delete(table).where(table.c.project == row.project, table.c.name == row.name))
    return len(old)


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
