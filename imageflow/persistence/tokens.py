"""Tokens for the HTTP interface: what is known of each, and the hash it is recognised by."""

from __future__ import annotations

from dataclasses import dataclass, fields

import sqlalchemy as sa

from imageflow.errors import NotFound
from imageflow.persistence.database import clock
from imageflow.persistence.tables import api_tokens

HOUR = 3600.0  # seconds between two notes of a use
SHOWN = 90 * 86400.0  # seconds for which a token that has expired, or was revoked, is still listed


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token, without its secret."""

    id: str  # public: in lists and logs
    name: str  # what it is for
    project: str
    role: str
    created: float
    expires: float | None  # None: never
    revoked: float | None
    last_used: float | None  # to the hour

    def state(self, now: float) -> str:
        """valid, expired or revoked."""
        if self.revoked is not None:
            return "revoked"
        return "valid" if self.expires is None or self.expires > now else "expired"


@dataclass(frozen=True, slots=True)
class Found:
    """A token as it is checked."""

    token: ApiToken
    hash: str
    valid: bool  # neither revoked nor expired, by the database's clock


_COLUMNS = [api_tokens.c[f.name] for f in fields(ApiToken)]


def insert(
    conn: sa.Connection, *, id: str, name: str, project: str, role: str, hash: str, life: float | None
) -> ApiToken:
    """A new token, unless it is there already: then an earlier attempt had come through."""
    if (found := find(conn, id=id)) is not None:
        return found.token
    now = clock(conn.dialect.name)
    values = {"id": id, "name": name, "project": project, "role": role, "hash": hash, "created": now}
    conn.execute(sa.insert(api_tokens).values(**values, expires=None if life is None else now + life))
    return _get(conn, id)


def select(conn: sa.Connection) -> list[ApiToken]:
    """All tokens, the newest first."""
    query = sa.select(*_COLUMNS).order_by(api_tokens.c.created.desc(), api_tokens.c.id)
    return [ApiToken(**row._mapping) for row in conn.execute(query)]


def find(conn: sa.Connection, *, id: str) -> Found | None:
    """The token with this id, by its primary key."""
    now = clock(conn.dialect.name).label("now")
    row = conn.execute(sa.select(*_COLUMNS, api_tokens.c.hash, now).where(api_tokens.c.id == id)).one_or_none()
    if row is None:
        return None
    token = ApiToken(*row[: len(_COLUMNS)])
    return Found(token, row.hash, token.state(row.now) == "valid")


def revoke(conn: sa.Connection, *, id: str) -> ApiToken:
    """Refuse this token from now on; a second time changes nothing."""
    conn.execute(
        sa.update(api_tokens)
        .where(api_tokens.c.id == id, api_tokens.c.revoked.is_(None))
        .values(revoked=clock(conn.dialect.name))
    )
    return _get(conn, id)


def forget(conn: sa.Connection, before: float) -> int:
    """Remove those that expired, or were revoked, before that moment; -> how many."""
    ended = sa.or_(api_tokens.c.expires <= before, api_tokens.c.revoked <= before)
    return conn.execute(sa.delete(api_tokens).where(ended)).rowcount


def touch(conn: sa.Connection, *, id: str) -> None:
    """Note a use, if the last note is an hour old."""
    now = clock(conn.dialect.name)
    stale = sa.or_(api_tokens.c.last_used.is_(None), api_tokens.c.last_used <= now - HOUR)
    conn.execute(sa.update(api_tokens).where(api_tokens.c.id == id, stale).values(last_used=now))


def _get(conn: sa.Connection, id: str) -> ApiToken:
    found = find(conn, id=id)
    if found is None:
        raise NotFound(f"there is no token with the id {id!r}", hint="see 'imageflow token list'")
    return found.token
