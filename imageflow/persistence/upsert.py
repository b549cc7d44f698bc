"""INSERT that copes with a row that is there already, in the words of each database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite


def insert_or_keep(conn: sa.Connection, table: sa.Table, values: Mapping[str, Any], key: str) -> None:
    """Insert a row unless one with this unique `key` is there: then that one stays as it is.

    Waits for a concurrent transaction that inserts the same key, so a SELECT afterwards tells who won.
    """
    if conn.dialect.name == "postgresql":
        conn.execute(postgresql.insert(table).values(**values).on_conflict_do_nothing(index_elements=[key]))
    elif conn.dialect.name == "sqlite":
        conn.execute(sqlite.insert(table).values(**values).on_conflict_do_nothing(index_elements=[key]))
    else:  # INSERT IGNORE would also ignore values that do not fit
        conn.execute(mysql.insert(table).values(**values).on_duplicate_key_update({key: table.c[key]}))


def insert_or_update(
    conn: sa.Connection, table: sa.Table, values: Mapping[str, Any], key: Sequence[str], change: Mapping[str, Any]
) -> None:
    """Insert a row; where one with this unique `key` is there, `change` that one instead."""
    if conn.dialect.name == "postgresql":
        conn.execute(postgresql.insert(table).values(**values).on_conflict_do_update(index_elements=key, set_=change))
    elif conn.dialect.name == "sqlite":
        conn.execute(sqlite.insert(table).values(**values).on_conflict_do_update(index_elements=key, set_=change))
    else:
        conn.execute(mysql.insert(table).values(**values).on_duplicate_key_update(dict(change)))
