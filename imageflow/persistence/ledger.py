"""The ledger: what builds made on which host, recorded before the thing exists, closed after it is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from imageflow.model import ENDED, Resource, ResourceKind
from imageflow.persistence.database import Database
from imageflow.persistence.patience import BUILD
from imageflow.persistence.tables import builds, resources
from imageflow.persistence.upsert import insert_or_update

_COLUMNS = [resources.c[f.name] for f in fields(Resource)]


def _resource(row: sa.Row[Any]) -> Resource:
    values = dict(row._mapping)
    values["kind"] = ResourceKind(values["kind"])
    return Resource(**values)


def open(conn: sa.Connection, build_id: str, kind: ResourceKind, name: str, host: str, opened: float) -> None:
    """Record that a build is about to make this; a closed row is opened again."""
    insert_or_update(
        conn,
        resources,
        {"build_id": build_id, "kind": kind.value, "name": name, "host": host, "opened": opened},
        key=["build_id", "kind", "name", "host"],
        change={"opened": opened, "closed": None, "error": None},
    )


def close(conn: sa.Connection, build_id: str, kind: ResourceKind, name: str, host: str, closed: float) -> bool:
    """Record that this is gone, or has another owner now; -> whether it was open."""
    statement = sa.update(resources).where(
        resources.c.build_id == build_id,
        resources.c.kind == kind.value,
        resources.c.name == name,
        resources.c.host == host,
        resources.c.closed.is_(None),
    )
    return conn.execute(statement.values(closed=closed, error=None)).rowcount == 1


def close_id(conn: sa.Connection, id: int, closed: float) -> bool:
    """`close` by the row's id, for the janitor."""
    statement = sa.update(resources).where(resources.c.id == id, resources.c.closed.is_(None))
    return conn.execute(statement.values(closed=closed, error=None)).rowcount == 1


def failed(conn: sa.Connection, id: int, error: str) -> None:
    """Record that removing this failed; it stays open."""
    conn.execute(sa.update(resources).where(resources.c.id == id).values(error=error))


def select(
    conn: sa.Connection, *, open_only: bool = True, host: str | None = None, build_id: str | None = None
) -> list[Resource]:
    """Rows of the ledger, in the order in which they were first opened."""
    query = sa.select(*_COLUMNS).order_by(resources.c.id)
    if open_only:
        query = query.where(resources.c.closed.is_(None))
    if host is not None:
        query = query.where(resources.c.host == host)
    if build_id is not None:
        query = query.where(resources.c.build_id == build_id)
    return [_resource(row) for row in conn.execute(query)]


def dead(conn: sa.Connection, host: str) -> list[Resource]:
    """Open rows of this host whose builds have ended (or do not exist), the newest first."""
    query = (
        sa.select(*_COLUMNS)
        .join_from(resources, builds, builds.c.id == resources.c.build_id, isouter=True)
        .where(
            resources.c.closed.is_(None),
            resources.c.host == host,
            sa.or_(builds.c.id.is_(None), builds.c.state.in_([s.value for s in ENDED])),
        )
        .order_by(resources.c.id.desc())  # a mount inside a folder goes before the folder
    )
    return [_resource(row) for row in conn.execute(query)]


class BuildLedger:
    """The ledger of one running build, for its tasks; every write proves the claim."""

    def __init__(self, database: Database, build_id: str, host: str, prove: Callable[[sa.Connection], None]) -> None:
        self._database = database
        self._build_id = build_id
        self._host = host
        self._prove = prove

    def open(self, kind: ResourceKind, name: str) -> None:
        """Record that this is about to be made; may be repeated."""
        self._write(lambda conn: open(conn, self._build_id, kind, name, self._host, time.time()))

    def close(self, kind: ResourceKind, name: str) -> None:
        """Record that this is gone, or has another owner now; an unknown one is fine."""
        self._write(lambda conn: close(conn, self._build_id, kind, name, self._host, time.time()))

    def _write(self, work: Callable[[sa.Connection], object]) -> None:
        def fenced(conn: sa.Connection) -> None:
            self._prove(conn)
            work(conn)

        self._database.transact(fenced, patience=BUILD)
