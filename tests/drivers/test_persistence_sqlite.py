"""The database as SQLite's file: durable, private, locked, no database at all, on a disk that is full."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow.errors import ConfigError, DatabaseReadOnly, DatabaseUnavailable, NoSpace
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from imageflow.persistence.patience import BUILD, EVENT, REQUEST
from imageflow.persistence.tables import conductors as table
from tests.drivers.conductor_rows import add, names
from tests.servers.services import missing, require


def test_sqlite_is_durable_private_and_enforces_keys(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "imageflow.db"
    with Database(f"sqlite:///{path}") as db:
        schema.ready(db)
        assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o027 == 0
        with db.read() as conn:
            found = {
                p: conn.exec_driver_sql(f"PRAGMA {p}").scalar()
                for p in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_a_heartbeat_waits_for_no_disk_and_leaves_no_endless_log(tmp_path: Path) -> None:
    path = tmp_path / "imageflow.db"
    with Database(f"sqlite:///{path}") as db, Database(f"sqlite:///{path}", lasting=False) as pulse:
        schema.ready(db)
        with pulse.read() as conn:
            assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL: of the log, nothing is awaited
            assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        for number in range(4000):
            with pulse.begin() as conn:
                conn.execute(sa.delete(table))
                add(conn, str(number))
        assert names(db) == ["3999"]
        assert path.with_name("imageflow.db-wal").stat().st_size < 32 << 20


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "of an earlier version"])
def test_what_was_pruned_goes_back_to_the_disk(tmp_path: Path, earlier: bool) -> None:
    path = tmp_path / "imageflow.db"
    if earlier:
        with contextlib.closing(sqlite3.connect(path)) as raw:
            raw.execute("CREATE TABLE theirs (text TEXT)")
    with Database(f"sqlite:///{path}") as db:
        schema.upgrade(db)
        with db.begin() as conn:
            conn.exec_driver_sql("CREATE TABLE more (data BLOB)")
            for _ in range(60):
                conn.exec_driver_sql("INSERT INTO more VALUES (zeroblob(1048576))")
        with db.begin() as conn:
            conn.exec_driver_sql("DELETE FROM more")
        for _ in range(5):
            db.shrink()
        with db.read() as conn:
            assert int(conn.exec_driver_sql("PRAGMA page_count").scalar_one()) < 4000
    assert path.stat().st_size < 20 << 20


def test_sqlite_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path}/a.db") as db:
        schema.ready(db)
        with db.begin() as writer:
            add(writer, "a")
            assert names(db) == []
        assert names(db) == ["a"]


def test_sqlite_writers_take_turns(tmp_path: Path) -> None:
    """Read, think, write: with deferred transactions the second one would fail or overwrite."""
    with Database(f"sqlite:///{tmp_path}/a.db") as db:
        schema.ready(db)
        db.transact(lambda conn: add(conn, "n"))

        def increment() -> None:
            for _ in range(25):
                with db.begin() as conn:
                    value = conn.execute(sa.select(table.c.pid)).scalar_one()
                    conn.execute(sa.update(table).values(pid=value + 1))

        threads = [threading.Thread(target=increment) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        with db.read() as conn:
            assert conn.execute(sa.select(table.c.pid)).scalar_one() == 101


@pytest.mark.parametrize("content", [b"this is no database at all, but long enough to look at" * 50, b"x" * 17])
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(content)
    with Database(f"sqlite:///{path}") as db:
        for call in (schema.ready, schema.upgrade):
            with pytest.raises(ConfigError, match="not a SQLite database") as caught:
                call(db)
            assert str(path) in str(caught.value) and caught.value.hint
    assert path.read_bytes() == content


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path}") as db, pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        schema.ready(db)


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with Database(f"sqlite:///{tmp_path}/f/a.db") as db, pytest.raises(ConfigError, match="can't be opened"):
        schema.ready(db)


def test_a_locked_sqlite_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Database(f"sqlite:///{path}") as db:
        schema.ready(db)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with db.read() as conn:
            raw = conn.connection.driver_connection
            raw.execute("PRAGMA busy_timeout=50")  # type: ignore[union-attr]
        with pytest.raises(DatabaseUnavailable, match="locked by another process"), db.begin():
            pass
        other.close()
        db.transact(lambda conn: add(conn, "a"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    require("root, to mount a small file system", os.geteuid() or missing("mount", "umount"))
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "imageflow-test", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_named_and_nothing_is_lost(small_disk: Path) -> None:
    path = small_disk / "imageflow.db"
    with Database(f"sqlite:///{path}") as db:
        schema.ready(db)
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"")
        db.transact(lambda conn: add(conn, "before"))
        with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

        def fill(conn: sa.Connection) -> None:
            for number in range(2000):
                add(conn, f"{number:04d}" * 40)

        with pytest.raises(NoSpace) as caught:
            db.transact(fill, patience=5)
        assert str(path) in str(caught.value) and caught.value.hint
        assert names(db) == ["before"]
        ballast.unlink()
        db.transact(lambda conn: add(conn, "after"))
        assert names(db) == ["after", "before"]
        assert schema.check(db) == []


def test_no_room_to_make_the_database(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"), (small_disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with Database(f"sqlite:///{small_disk}/imageflow.db") as db:
        with pytest.raises(NoSpace, match=r"imageflow\.db"):
            schema.ready(db)
        (small_disk / "ballast").unlink()
        schema.ready(db)
        assert schema.check(db) == []


def test_a_disk_that_became_read_only_is_waited_for(small_disk: Path) -> None:
    path = small_disk / "imageflow.db"

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", small_disk], check=True)

    with Database(f"sqlite:///{path}") as db:
        schema.ready(db)
        db.transact(lambda conn: add(conn, "before"))
        db.close()  # no file is open for writing: the kernel would refuse to remount
        remount("ro")
        with pytest.raises(DatabaseReadOnly, match="can't be written now"):
            db.transact(lambda conn: add(conn, "never"))
        timer = threading.Timer(0.5, remount, ["rw"])
        timer.start()
        db.transact(lambda conn: add(conn, "after"), patience=20)
        timer.join()
        assert names(db) == ["after", "before"]


def test_only_a_builds_own_write_gets_the_reserve(tmp_path: Path) -> None:
    """A heartbeat on a full disk would give it to the step that fills the disk."""
    sqlite = Database(f"sqlite:///{tmp_path}/imageflow.db")
    given: list[str] = []
    sqlite.relief = lambda: not given.append("up")  # type: ignore[func-returns-value]
    full = [NoSpace("full")]

    def write() -> str:
        if full:
            raise full.pop()
        return "stored"

    for patience in (0.0, EVENT, REQUEST):
        full[:] = [NoSpace("full")]
        with pytest.raises(NoSpace):
            sqlite.repeat(write, patience)
    assert given == []
    full[:] = [NoSpace("full")]
    assert sqlite.repeat(write, BUILD) == "stored" and given == ["up"]
