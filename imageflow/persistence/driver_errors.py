"""Translates a database driver's errors into imageflow's own: down, contended, full, or not usable at all."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from imageflow.errors import ConfigError, DatabaseReadOnly, DatabaseUnavailable, ImageflowError, NoSpace


class Contention(DatabaseUnavailable):
    """Another transaction was in the way."""

    hint = "try again"


_FULL = "free some space there, then try again"
_PG_CONTENTION = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock timeout
_PG_CONFIG = {"28000", "28P01", "3D000", "42501"}  # login refused, no such database, not allowed
_PG_AWAY = {"53300", "57P01", "57P02", "57P03", "57P05", "25P03"}  # too many connections, shutdown, starting, idle
_MY_CONTENTION = {1020, 1205, 1213}  # record changed, lock wait timeout, deadlock
_MY_CONFIG = {1044, 1045, 1049, 1142, 1698}  # access denied, unknown database, command denied
_MY_AWAY = {0, 1040, 1047, 1053, 1152, 1184, 1317, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031}
_PG_READ_ONLY = {"25006"}  # a server that became a replica, or was made read-only
_MY_READ_ONLY = {1207, 1290, 1792, 1836}  # the same; InnoDB in read-only mode
_MY_FULL = {1021, 1114}
_SQLITE_BUSY, _SQLITE_LOCKED, _SQLITE_READONLY, _SQLITE_IOERR = 5, 6, 8, 10
_SQLITE_CORRUPT, _SQLITE_FULL, _SQLITE_CANTOPEN, _SQLITE_NOTADB = 11, 13, 14, 26


@contextlib.contextmanager
def translated(place: str, path: Path | None) -> Iterator[None]:
    """Raise drivers' errors in the block as our own errors; bugs of ours pass unchanged.

    `place` is the database's location, without a password; `path` is the file of a SQLite one.
    """
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except sa.exc.TimeoutError as error:
        raise DatabaseUnavailable(f"{place}: all connections are in use", hint="run fewer builds at once") from error
    except sa.exc.DBAPIError as error:
        verdict = _verdict(error, place, path)
        if verdict is None:
            raise
        raise verdict from error
    except sqlite3.Error as error:  # of a PRAGMA, which bypasses sqlalchemy
        verdict = _sqlite(error, path or Path(place))
        if verdict is None:
            raise
        raise verdict from error


_ELSEWHERE = "use another --state-dir or IMAGEFLOW_STATE_DIR, or [database] connection"


def file_trouble(error: OSError, path: Path) -> ImageflowError:
    """The error for a SQLite file, or its folder, that can't be created."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"no space for the database {path}", hint=_FULL)
    return ConfigError(f"the database {path} can't be opened: {error.strerror}", hint=_ELSEWHERE)


def _verdict(error: sa.exc.DBAPIError, place: str, path: Path | None) -> ImageflowError | None:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _sqlite(cause, path or Path(place))
    state = getattr(cause, "sqlstate", None)
    number = cause.args[0] if cause is not None and cause.args and isinstance(cause.args[0], int) else None
    what = _first_line(cause)
    if state in _PG_CONTENTION or number in _MY_CONTENTION:
        return Contention(f"{place}: {what}")
    if state == "53100" or number in _MY_FULL:
        return NoSpace(f"{place}: {what}", hint="free some space on the database server")
    if state in _PG_READ_ONLY or number in _MY_READ_ONLY:
        return DatabaseReadOnly(f"{place}: {what}")
    if state in _PG_CONFIG or number in _MY_CONFIG or (state is None and number is None and _refused(what)):
        return ConfigError(f"{place}: {what}", hint="check [database] connection")
    away = state in _PG_AWAY or number in _MY_AWAY or (state or "").startswith("08")
    connecting = isinstance(error, sa.exc.OperationalError) and state is None and number is None
    if error.connection_invalidated or away or connecting:
        return DatabaseUnavailable(f"{place} does not answer: {what}")
    return None


def _refused(what: str) -> bool:
    """Whether PostgreSQL refused a login; psycopg gives no code for errors while connecting."""
    return any(
        text in what for text in ("authentication failed", "does not exist", "no pg_hba.conf entry", "no password")
    )


def _first_line(cause: BaseException | None) -> str:
    args: tuple[object, ...] = getattr(cause, "args", ())
    text = str(args[1] if len(args) > 1 else args[0] if args else "") or type(cause).__name__
    return text.strip().splitlines()[0] if text.strip() else type(cause).__name__


def _sqlite(cause: sqlite3.Error, path: Path) -> ImageflowError | None:
    code = getattr(cause, "sqlite_errorcode", None) or 0
    kind = code & 0xFF
    if kind in (_SQLITE_BUSY, _SQLITE_LOCKED):
        return Contention(
            f"the database {path} is locked by another process", hint="see which process uses it: fuser " + str(path)
        )
    if kind in (_SQLITE_READONLY, _SQLITE_CANTOPEN, _SQLITE_IOERR) and _is_read_only(path):
        return DatabaseReadOnly(f"the database {path} can't be written now", hint="its file system is read-only")
    if kind == _SQLITE_FULL or (kind in (_SQLITE_IOERR, _SQLITE_CANTOPEN) and _is_full(path)):
        return NoSpace(f"no space for the database {path}", hint=_FULL)
    if kind in (_SQLITE_NOTADB, _SQLITE_CORRUPT):
        return ConfigError(
            f"{path} is not a SQLite database, or it is damaged",
            hint="restore it from a backup, or move it away to start afresh",
        )
    if kind == _SQLITE_READONLY and not os.access(path, os.W_OK):
        return ConfigError(f"the database {path} can't be written", hint="check the owner of the file and its folder")
    if kind == _SQLITE_READONLY:
        return DatabaseReadOnly(f"the database {path} can't be written now: {cause}")
    if kind == _SQLITE_CANTOPEN:
        return ConfigError(f"the database {path} can't be opened", hint="check the folder and its permissions")
    if kind == _SQLITE_IOERR:
        return DatabaseUnavailable(f"the database {path} can't be read or written: {cause}", hint="check the disk")
    return None


def _is_read_only(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    return False


def _is_full(path: Path) -> bool:
    with contextlib.suppress(OSError):
        room = os.statvfs(path.parent)
        return room.f_bavail * room.f_frsize < 1 << 20 or (room.f_files > 0 and room.f_favail == 0)
    return False
