"""The schema's version: check it, upgrade it, and compare it with the real tables.

`ready` is on the path of every command, so alembic is imported only when there is something to do.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from imageflow.errors import ConfigError, DatabaseUnavailable, SchemaOutdated
from imageflow.host import locks
from imageflow.persistence.database import Database
from imageflow.persistence.driver_errors import file_trouble, translated

if TYPE_CHECKING:
    from alembic.config import Config

# Every migration in versions/, in order; the last one is this code's schema.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
VERSION_TABLE = "imageflow_version"
_LOCK = 0x696D6167  # 'imag': of the advisory lock; GET_LOCK takes the name below
_LOCK_NAME = "imageflow.upgrade"

_version_table = sa.table(VERSION_TABLE, sa.column("version_num"))


def ready(db: Database) -> None:
    """Make sure the schema is this version's. SQLite is upgraded automatically, a server raises SchemaOutdated."""
    found = _found(db)
    if found == REVISIONS[-1]:
        return
    _refuse_newer(db, found)
    if db.dialect == "sqlite":
        upgrade(db)
    elif found is None:
        raise SchemaOutdated(f"{db.place} has no tables of imageflow yet")
    else:
        raise SchemaOutdated(f"{db.place} was made by an older imageflow (schema {found}, needed {REVISIONS[-1]})")


def upgrade(db: Database) -> None:
    """Upgrade the schema to this version of imageflow; safe when several processes do it at once."""
    from alembic import command

    _refuse_newer(db, _found(db))
    with _alone(db) as conn:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        config = _config()
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
    db.engine.dispose()  # connections opened before know the old tables


def check(db: Database) -> list[str]:
    """Differences of the real tables from what this version of imageflow expects, one line each."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from imageflow.persistence import flowstore  # noqa: F401 - brings TaskFlow's tables into the metadata
    from imageflow.persistence.tables import metadata

    found = _found(db)
    if found is None:
        return ["the tables are missing"]
    if found != REVISIONS[-1]:
        return [f"the schema is version {found}, this imageflow needs {REVISIONS[-1]}"]

    def ours(thing: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
        table = thing if kind == "table" else thing.table
        return table.name in metadata.tables  # others may live in the same database

    with db.read() as conn:
        context = MigrationContext.configure(
            conn, opts={"include_object": ours, "version_table": VERSION_TABLE, "compare_type": True}
        )
        return [line for diff in compare_metadata(context, metadata) for line in _readable(diff)]


def _found(db: Database) -> str | None:
    """The schema version of the database, None when there is none; one tiny select."""
    with db.read() as conn:
        try:
            version: str | None = conn.execute(sa.select(_version_table.c.version_num)).scalar()
            return version
        except (sa.exc.ProgrammingError, sa.exc.OperationalError) as error:
            if not _missing_table(error):
                raise
            return None


def _missing_table(error: sa.exc.DBAPIError) -> bool:
    cause = error.orig
    number = cause.args[0] if cause is not None and cause.args else None
    return getattr(cause, "sqlstate", None) == "42P01" or number == 1146 or "no such table" in str(cause)


def _refuse_newer(db: Database, found: str | None) -> None:
    if found is not None and found not in REVISIONS:
        raise SchemaOutdated(
            f"{db.place} was made by a newer imageflow (schema {found}, this one knows {REVISIONS[-1]})",
            hint="upgrade imageflow on this machine",
        )


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "imageflow.persistence:migrations")
    return config


@contextlib.contextmanager
def _alone(db: Database) -> Iterator[sa.Connection]:
    """A write transaction that excludes every other upgrading process."""
    if db.path is not None:
        with _sqlite_alone(db) as conn:
            yield conn
        return
    with db.begin() as conn:
        if db.dialect == "postgresql":
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield conn
            return
        # MariaDB commits each CREATE TABLE, so the lock is the session's, not the transaction's.
        if conn.execute(sa.select(sa.func.get_lock(_LOCK_NAME, 120))).scalar() != 1:
            raise DatabaseUnavailable(f"{db.place} is being upgraded by another process", hint="try again later")
        try:
            yield conn
        finally:
            with contextlib.suppress(sa.exc.DBAPIError):  # gone with its connection
                conn.execute(sa.select(sa.func.release_lock(_LOCK_NAME)))


@contextlib.contextmanager
def _sqlite_alone(db: Database) -> Iterator[sa.Connection]:
    path = db.path
    assert path is not None
    with db.read() as conn:  # creates the file and its folder, or raises why that is not possible
        conn.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1")
    lock = path.with_name(path.name + ".lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locks.alone(lock, 0o600))
        except OSError as error:
            raise file_trouble(error, lock) from error
        with translated(db.place, path), db.engine.connect() as conn:
            raw: Any = conn.connection.driver_connection
            _make_shrinkable(raw)
            raw.execute("PRAGMA journal_mode=WAL")  # persistent in the file
            # A migration rebuilds tables: with foreign keys on, dropping the old one would delete its children.
            raw.execute("PRAGMA foreign_keys=OFF")
            try:
                conn = conn.execution_options(imageflow_write=True)
                with conn.begin():
                    yield conn
                    if orphans := conn.exec_driver_sql("PRAGMA foreign_key_check").all():
                        raise ConfigError(f"{path}: {len(orphans)} rows refer to missing rows")
            finally:
                raw.execute("PRAGMA foreign_keys=ON")


def _make_shrinkable(raw: Any) -> None:
    """Let Database.shrink give free pages back: at once in a new file, a file of an earlier version is written anew."""
    if raw.execute("PRAGMA auto_vacuum").fetchone() == (2,):
        return
    raw.execute("PRAGMA auto_vacuum=INCREMENTAL")
    if raw.execute("PRAGMA page_count").fetchone() != (0,):
        with contextlib.suppress(sqlite3.OperationalError):  # no room for a second file, or somebody reads
            raw.execute("VACUUM")


def _readable(diff: Any) -> list[str]:
    """One difference, as alembic describes it, in words."""
    if isinstance(diff, list):
        return [f"{d[2]}.{d[3]}: {d[0].removeprefix('modify_')} is {d[5]}, should be {d[6]}" for d in diff]
    kind, thing = diff[0], diff[-1]
    verb = "is missing" if kind.startswith("add_") else "should not be there"
    if kind.endswith("_column"):
        return [f"column {diff[2]}.{thing.name} {verb}"]
    if kind.endswith("_table"):
        return [f"table {thing.name} {verb}"]
    what = kind.partition("_")[2].replace("_", " ").replace("fk", "foreign key")
    return [f"{what} {thing.name} of {thing.table.name} {verb}"]
