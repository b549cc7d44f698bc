"""The schema's version: is it ours, bring it there, how does the real one differ.

`ready` is on the path of every command, so alembic is imported only where something is to be done.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from imageflow.errors import ConfigError, DatabaseUnavailable, SchemaOutdated
from imageflow.persistence.trouble import file_trouble, translated

if TYPE_CHECKING:
    from alembic.config import Config

    from imageflow.persistence.database import Database

# Every migration in versions/, in order; the last one is this code's schema.
REVISIONS = ("0001", "0002", "0003", "0004")
VERSION_TABLE = "imageflow_version"
_LOCK = 0x696D6167  # 'imag': of the advisory lock; GET_LOCK takes the name below
_LOCK_NAME = "imageflow.upgrade"

_version_table = sa.table(VERSION_TABLE, sa.column("version_num"))


def ready(db: Database) -> None:
    """See Database.ready."""
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
    """See Database.upgrade."""
    from alembic import command

    _refuse_newer(db, _found(db))
    with _alone(db) as conn:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        config = _config()
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
    db.engine.dispose()  # connections that were opened before know the old tables


def check(db: Database) -> list[str]:
    """See Database.check."""
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
    """A write transaction that no other process that upgrades has at the same time."""
    if db.path is not None:
        with _sqlite_alone(db) as conn:
            yield conn
        return
    with db.begin() as conn:
        if db.dialect == "postgresql":
            conn.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield conn
            return
        # MariaDB commits at each CREATE TABLE, so the lock is the session's, not the transaction's.
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
    with db.read() as conn:  # makes the file and its folder, or says why that is not possible
        conn.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1")
    lock = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as error:
        raise file_trouble(error, lock) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the kernel drops it when this process dies
        with translated(db.place, path), db.engine.connect() as conn:
            raw: Any = conn.connection.driver_connection
            raw.execute("PRAGMA journal_mode=WAL")  # stays with the file
            # A migration rebuilds tables: with foreign keys on, dropping the old one would delete its children.
            raw.execute("PRAGMA foreign_keys=OFF")
            try:
                conn = conn.execution_options(imageflow_write=True)
                with conn.begin():
                    yield conn
                    if orphans := conn.exec_driver_sql("PRAGMA foreign_key_check").all():
                        raise ConfigError(f"{path}: {len(orphans)} rows refer to rows that are not there")
            finally:
                raw.execute("PRAGMA foreign_keys=ON")
    finally:
        os.close(descriptor)


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
