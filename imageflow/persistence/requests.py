"""Requests for images: by whom, for what, and the build whose version each holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from imageflow.model import Json
from imageflow.persistence.tables import requests as table
from imageflow.persistence.tables import unheld
from imageflow.persistence.upsert import insert_or_update


class BuildPolicy(StrEnum):
    """What a request does when there is no version of its image."""

    IF_MISSING = "if-missing"  # build one
    NEVER = "never"  # take what is there, or nothing


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """An image that somebody asks for under a name of their own; while it is there, its version is not removed."""

    project: str
    name: str  # the client's, one namespace for each project
    image: str
    policy: BuildPolicy = BuildPolicy.IF_MISSING
    wanted: Json | None = None  # the canonical want; None: the image was asked for by its name
    user: Mapping[str, str] = field(default_factory=dict)  # who uses it, in words of the client
    build_id: str | None = None  # of the build that makes the version, or made it
    created: float = 0.0
    changed: float = 0.0


_CHEAP = [table.c[f.name] for f in fields(ImageRequest) if f.name != "wanted"]
_COLUMNS = [table.c[f.name] for f in fields(ImageRequest)]


def find(conn: sa.Connection, project: str, name: str) -> ImageRequest | None:
    """The request of this name in a project."""
    row = conn.execute(sa.select(*_COLUMNS).where(table.c.project == project, table.c.name == name)).first()
    return None if row is None else _request(row._mapping)


def put(conn: sa.Connection, request: ImageRequest, now: float) -> ImageRequest:
    """Store a request in place of the one with its name; -> it, with its times."""
    before = find(conn, request.project, request.name)
    values = {f.name: getattr(request, f.name) for f in fields(ImageRequest)}
    stored = replace(request, created=now if before is None else before.created, changed=now)
    values |= {"policy": request.policy.value, "user": dict(request.user), "created": stored.created, "changed": now}
    key = ("project", "name")
    insert_or_update(conn, table, values, key, {k: v for k, v in values.items() if k not in (*key, "created")})
    conn.execute(sa.delete(unheld).where(unheld.c.build_id == stored.build_id))
    if before is not None:
        _let_go(conn, before, now)
    return stored


def select(conn: sa.Connection, project: str, limit: int, after: str | None = None) -> list[ImageRequest]:
    """A project's requests in the order of their names, those after this one, without their wants: they hold files."""
    query = sa.select(*_CHEAP).where(table.c.project == project)
    if after is not None:
        query = query.where(table.c.name > after)
    return [_request(row._mapping) for row in conn.execute(query.order_by(table.c.name).limit(limit))]


def remove(conn: sa.Connection, project: str, name: str, now: float) -> bool:
    """Forget a request; -> whether there was one."""
    before = find(conn, project, name)
    conn.execute(sa.delete(table).where(table.c.project == project, table.c.name == name))
    if before is not None:
        _let_go(conn, before, now)
    return before is not None


def count(conn: sa.Connection, project: str) -> int:
    """How many requests a project has."""
    return conn.scalar(sa.select(sa.func.count()).where(table.c.project == project)) or 0


def holding(conn: sa.Connection, build_id: str) -> ImageRequest | None:
    """One of the requests that hold this build, or the version that it made."""
    row = conn.execute(sa.select(*_COLUMNS).where(table.c.build_id == build_id).limit(1)).first()
    return None if row is None else _request(row._mapping)


def no_longer_held(conn: sa.Connection, before: float, limit: int) -> list[str]:
    """Ids of builds of wants that no request has named since before that moment, the oldest first."""
    query = sa.select(unheld.c.build_id).where(unheld.c.since <= before).order_by(unheld.c.since).limit(limit)
    return list(conn.scalars(query))


def forget(conn: sa.Connection, build_id: str) -> None:
    """Take a build out of `no_longer_held`."""
    conn.execute(sa.delete(unheld).where(unheld.c.build_id == build_id))


def note_unheld(conn: sa.Connection, build_id: str, now: float) -> None:
    """Nobody holds this build from now on, unless somebody does."""
    forget(conn, build_id)
    if holding(conn, build_id) is None:
        conn.execute(sa.insert(unheld).values(build_id=build_id, since=now))


def _let_go(conn: sa.Connection, request: ImageRequest, now: float) -> None:
    """Note since when nobody holds what this request held; the images of recipes are kept as these say."""
    if request.build_id is not None and request.wanted is not None:
        note_unheld(conn, request.build_id, now)


def _request(values: Mapping[Any, Any]) -> ImageRequest:
    return ImageRequest(**{**values, "policy": BuildPolicy(values["policy"])})
