"""INSERT that handles an existing row, in each database's dialect."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa


def insert_or_keep(conn: sa.Connection, table: sa.Table, values: Mapping[str, Any], key: str) -> None:
    """Insert a row unless one with this unique `key` exists: then that one stays as it is.

    Waits for a concurrent transaction that inserts the same key, so a SELECT afterwards tells who won.
    """
    statement = _insert(conn, table).values(**values)
    if _has_on_conflict(conn):
        conn.execute(statement.on_conflict_do_nothing(index_elements=[key]))
    else:  # INSERT IGNORE would also ignore values that do not fit
        conn.execute(statement.on_duplicate_key_update({key: table.c[key]}))


def insert_or_update(
    conn: sa.Connection, table: sa.Table, values: Mapping[str, Any], key: Sequence[str], change: Mapping[str, Any]
) -> None:
    """Insert a row; if one with this unique `key` exists, `change` that one instead."""
    statement = _insert(conn, table).values(**values)
    if _has_on_conflict(conn):
        conn.execute(statement.on_conflict_do_update(index_elements=key, set_=change))
    else:
        conn.execute(statement.on_duplicate_key_update(dict(change)))


def insert_or_change_all(
    conn: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]], key: str, change: Mapping[str, Any]
) -> None:
    """As `insert_or_update`, for many rows with the same columns: one statement, built once."""
    statement = _insert(conn, table)
    if _has_on_conflict(conn):
        statement = statement.on_conflict_do_update(index_elements=[key], set_=change)
    else:
        statement = statement.on_duplicate_key_update(dict(change))
    conn.execute(statement, list(rows))


def _has_on_conflict(conn: sa.Connection) -> bool:
    return conn.dialect.name in ("postgresql", "sqlite")


def _insert(conn: sa.Connection, table: sa.Table) -> Any:
    """The database's own INSERT; importing all three costs the command line's start-up 40 ms."""
    name = "mysql" if conn.dialect.name == "mariadb" else conn.dialect.name
    return importlib.import_module(f"sqlalchemy.dialects.{name}").insert(table)
