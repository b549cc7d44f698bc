"""Access to the database: engine, transactions, the clock, and errors that an operator understands.

SQLite, PostgreSQL and MariaDB; no taskflow and no alembic here, so that the command line starts fast.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy import event

from imageflow.errors import ConfigError, DatabaseReadOnly, DatabaseUnavailable, NoSpace
from imageflow.persistence.driver_errors import Contention, file_trouble, translated
from imageflow.persistence.patience import BUILD

T = TypeVar("T")

BUSY = 30.0  # seconds that a transaction waits for another one's lock
_CONTENTION = 15.0  # seconds for which lost races (deadlocks) are retried whatever the patience
_EXTRAS = {"postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
_WRITE = "imageflow_write"
_FEW = 2000  # free pages of 4 KiB that stay for what comes next
_GIVEN_BACK = 5000  # pages at a time, so that writers do not wait long
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


class Database:
    """One database, by its SQLAlchemy URL; nothing is opened before the first transaction.

    Threads may share it; processes may not (create it after a fork).
    """

    def __init__(self, url: str, *, lasting: bool = True) -> None:
        """Not `lasting`: on SQLite, commits do not wait for the disk; the last ones may be lost in a power failure."""
        self.url = _parsed(url)
        self.dialect = self.url.get_backend_name()
        self.engine = _engine(self.url, self.path, lasting)
        self._writer = self.engine.execution_options(**{_WRITE: True})
        self.relief: Callable[[], bool] | None = (
            None  # called when the disk is full for a running build's write; True: there is room now, try again
        )

    @property
    def path(self) -> Path | None:
        """The file of a SQLite database."""
        return Path(self.url.database).absolute() if self.dialect == "sqlite" and self.url.database else None

    @property
    def place(self) -> str:
        """Its location, for messages: a path, or a URL without its password."""
        return str(self.path or self.url.render_as_string(hide_password=True))

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A write transaction: commits at the end of the block, rolls back on an exception.

        On SQLite it is the only one; it waits up to 30 s for that. Raises DatabaseUnavailable, NoSpace,
        ConfigError; sqlalchemy's IntegrityError passes through.
        """
        try:
            with translated(self.place, self.path), self._writer.begin() as conn:
                yield conn
        except DatabaseReadOnly:
            self.engine.dispose()  # the address may lead to another server by now, which old connections do not see
            raise

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A read-only transaction; never waits for writers on SQLite."""
        with translated(self.place, self.path), self.engine.connect() as conn:
            yield conn

    def look(self, work: Callable[[sa.Connection], T], patience: float = 0.0) -> T:
        """Run `work` in a read-only transaction; retried while the database is down, as in `transact`."""

        def once() -> T:
            with self.read() as conn:
                return work(conn)

        return self.repeat(once, patience)

    def transact(self, work: Callable[[sa.Connection], T], patience: float = 0.0) -> T:
        """Run `work` in a write transaction, retried as a whole while the database is down.

        `work` may run several times, also after an earlier commit succeeded but its reply got lost: it
        must check before it writes. After `patience` seconds (see persistence.patience)
        without success raises DatabaseUnavailable.
        """

        def once() -> T:
            with self.begin() as conn:
                return work(conn)

        return self.repeat(once, patience)

    def repeat(self, operation: Callable[[], T], patience: float = 0.0) -> T:
        """Call `operation` again while it raises DatabaseUnavailable, for `patience` seconds.

        A lost race with another transaction (deadlock, serialization failure) is always retried.
        """
        started = time.monotonic()
        try:
            return operation()
        except NoSpace:
            # what is tried again anyway leaves the relief: a step that still fills the disk would only take that room, too
            if self.relief is None or patience < BUILD or not self.relief():
                raise
        except DatabaseUnavailable as error:
            if not isinstance(error, Contention) and patience <= 0:
                raise
        import tenacity  # imported here: it costs the command line's start-up 40 ms

        def again(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            limit = max(patience, _CONTENTION) if isinstance(error, Contention) else patience
            return isinstance(error, DatabaseUnavailable) and time.monotonic() - started < limit

        return tenacity.Retrying(
            retry=again, wait=tenacity.wait_random_exponential(multiplier=0.02, max=1.0), reraise=True
        )(operation)

    def now(self) -> sa.ColumnElement[float]:
        """The clock as an SQL expression, seconds since the epoch: the server's, or this host's for SQLite."""
        return clock(self.dialect)

    def shrink(self) -> None:
        """Give free pages of an SQLite file back to its disk when they are many, some at a time; servers do it themselves."""
        if self.path is None:
            return
        with self.read() as conn:
            free, pages = (
                int(conn.exec_driver_sql(f"PRAGMA {of}").scalar_one()) for of in ("freelist_count", "page_count")
            )
        if free > max(_FEW, pages // 4):
            with translated(self.place, self.path), contextlib.closing(self.engine.raw_connection()) as raw:
                # execute() would give one page back: it works while there are rows to read, and there are none
                raw.driver_connection.executescript(f"PRAGMA incremental_vacuum({_GIVEN_BACK})")  # type: ignore[union-attr]

    def close(self) -> None:
        """Close all connections; the object can be used again."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def clock(dialect: str) -> sa.ColumnElement[float]:
    """`Database.now` for a dialect's name (`conn.dialect.name`)."""
    if dialect == "postgresql":
        return sa.literal_column("cast(extract(epoch from clock_timestamp()) as double precision)", sa.Double)
    if dialect in ("mysql", "mariadb"):  # sessions run in UTC, so that daylight saving time moves no lease
        return sa.literal_column("cast(unix_timestamp(sysdate(6)) as double)", sa.Double)
    return sa.literal(time.time(), sa.Double)


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
        name = parsed.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(
            "[database] connection is not a database URL", hint="for example sqlite:////var/lib/imageflow/imageflow.db"
        ) from None  # the cause would show the password
    if name == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ConfigError(
                "[database] connection: a SQLite database must be a file",
                hint="for example sqlite:////path/imageflow.db",
            )
    elif name not in _EXTRAS:
        raise ConfigError(
            f"[database] connection: {name!r} is not supported", hint="sqlite, postgresql+psycopg or mysql+pymysql"
        )
    elif "+" not in parsed.drivername:
        parsed = parsed.set(drivername=f"{name}+{'psycopg' if name == 'postgresql' else 'pymysql'}")
    return parsed


def _engine(url: sa.URL, path: Path | None, lasting: bool) -> sa.Engine:
    options: dict[str, Any] = {
        "pool_size": 8,
        "max_overflow": 24,
        "pool_timeout": BUSY,
        "hide_parameters": True,  # rows hold what users wrote, which must not reach errors and logs
    }
    if path is None:
        options |= {"pool_pre_ping": True, "pool_recycle": 1800, "isolation_level": "READ COMMITTED"}
        options["connect_args"] = {"connect_timeout": 10}
    if url.get_backend_name() in ("mysql", "mariadb"):
        url = url.update_query_dict({"charset": "utf8mb4"})
        options["connect_args"] |= {"read_timeout": 120, "write_timeout": 120}
    try:
        engine = sa.create_engine(url, **options)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(url.get_backend_name(), "")
        raise ConfigError(
            f"the driver of {url.drivername} is not installed ({error.name})",
            hint=f"pip install 'imageflow[{extra}]'",
        ) from error
    except sa.exc.SQLAlchemyError:
        raise ConfigError(f"[database] connection: {url.drivername!r} is not usable") from None
    event.listen(engine, "before_cursor_execute", _storable, retval=True)
    if path is not None:
        _prepare_sqlite(engine, path, lasting)
    else:
        event.listen(engine, "connect", _postgresql if url.get_backend_name() == "postgresql" else _mariadb)
    return engine


def _storable(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> tuple[str, Any]:
    """Text that no database can hold becomes text that each can: what strangers send must stop no transaction."""
    return statement, [_texts(row) for row in parameters] if many else _texts(parameters)


def _texts(row: Any) -> Any:
    if isinstance(row, dict):
        return {name: storable(value) for name, value in row.items()} if any(map(_is_bad, row.values())) else row
    return tuple(storable(value) for value in row) if any(map(_is_bad, row)) else row


def _is_bad(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return "\0" in value or not (value.isascii() or _NOT_TEXT.search(value) is None)


def storable(value: Any) -> Any:
    """A parameter of a statement, with a replacement character for each NUL (PostgreSQL) and each half of a surrogate pair."""
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", value) if _is_bad(value) else value


def _prepare_sqlite(engine: sa.Engine, path: Path, lasting: bool) -> None:
    pragmas = [f"busy_timeout={int(BUSY * 1000)}", "foreign_keys=ON"]
    # A process that does not wait for the disk also leaves checkpoints of SQLite's log to the others, as long as there are any.
    pragmas += ["synchronous=FULL"] if lasting else ["synchronous=NORMAL", "wal_autocheckpoint=4000"]

    @event.listens_for(engine, "do_connect")
    def make_file(*_: Any) -> None:
        try:
            if not path.exists():
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise file_trouble(error, path) from error

    @event.listens_for(engine, "connect")
    def configure(dbapi: Any, _: Any) -> None:
        dbapi.isolation_level = None  # sqlite3 must open no transaction on its own: `start` below does
        for pragma in pragmas:
            dbapi.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def start(conn: sa.Connection) -> None:
        # A reader that turns writer fails at once when another one wrote in the meantime, so writers declare it first.
        conn.exec_driver_sql("BEGIN IMMEDIATE" if conn.get_execution_options().get(_WRITE) else "BEGIN")


def _postgresql(dbapi: Any, _: Any) -> None:
    # A worker that is stopped in the middle of a transaction must not hold its job's row for ever.
    with dbapi.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = '{BUSY:g}s'; SET idle_in_transaction_session_timeout = '{BUSY:g}s'")
    dbapi.commit()


def _mariadb(dbapi: Any, _: Any) -> None:
    cursor = dbapi.cursor()
    cursor.execute(f"SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = {BUSY:.0f}")
    with contextlib.suppress(dbapi.Error):  # MySQL has no such variable
        cursor.execute(f"SET SESSION idle_transaction_timeout = {BUSY:.0f}")
    cursor.close()
