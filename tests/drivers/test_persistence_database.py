"""The door to the database: schema versions, its errors, and patience while it is away."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow.errors import ConfigError, DatabaseUnavailable, ImageflowError, NoSpace, SchemaOutdated
from imageflow.persistence import conductors, schema
from imageflow.persistence.database import Database
from imageflow.persistence.tables import conductors as table
from tests.racers import at_once, upgrade
from tests.services import PASSWORD, Server, missing, require


def add(conn: sa.Connection, name: str) -> None:
    conn.execute(sa.insert(table).values(name=name, host="h", pid=1, started=1.0, until=2.0, running=0))


def names(db: Database) -> list[str]:
    with db.read() as conn:
        return sorted(conn.execute(sa.select(table.c.name)).scalars())


# Schema


def test_upgrade_makes_what_the_code_expects(database: Database) -> None:
    assert database.check() == []
    database.upgrade()
    assert database.check() == []
    database.ready()


def test_check_names_differences(database: Database) -> None:
    with database.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE jobs DROP COLUMN book")
        conn.exec_driver_sql("ALTER TABLE steps ADD COLUMN surplus INTEGER")
        conn.exec_driver_sql("CREATE TABLE of_somebody_else (id INTEGER)")
    assert sorted(database.check()) == ["column jobs.book is missing", "column steps.surplus should not be there"]


def test_check_of_an_empty_database(database_url: str) -> None:
    with Database(database_url) as db:
        assert db.check() == ["the tables are missing"]


def test_ready_upgrades_sqlite_and_refuses_an_empty_server(database_url: str) -> None:
    with Database(database_url) as db:
        if db.dialect == "sqlite":
            db.ready()
            assert db.check() == []
        else:
            with pytest.raises(SchemaOutdated, match="no tables") as caught:
                db.ready()
            assert "imageflow db upgrade" in str(caught.value) and PASSWORD not in str(caught.value)


def test_a_database_of_a_newer_imageflow_is_refused_and_left_alone(database: Database) -> None:
    with database.begin() as conn:
        conn.exec_driver_sql("UPDATE imageflow_version SET version_num = '9999'")
    for call in (database.ready, database.upgrade):
        with pytest.raises(SchemaOutdated, match="newer") as caught:
            call()
        assert "upgrade imageflow" in caught.value.hint
    assert database.check() == [f"the schema is version 9999, this imageflow needs {schema.REVISIONS[-1]}"]


def test_revisions_are_those_of_the_migrations() -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(schema._config())
    assert tuple(reversed([r.revision for r in script.walk_revisions()])) == schema.REVISIONS


def test_ready_is_one_select_and_no_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with Database(url) as db:
        db.ready()
    code = f"""
import sys, sqlalchemy as sa
from imageflow.persistence import builds, steps, ledger, versions, conductors
from imageflow.persistence.database import Database
db = Database({url!r})
seen = []
sa.event.listen(db.engine, "before_cursor_execute", lambda c, cur, sql, *a: seen.append(sql.split()[0]))
db.ready()
assert seen == ["BEGIN", "SELECT"], seen
assert not {{"taskflow", "alembic", "tenacity", "pydantic"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_many_processes_upgrade_at_once(database_url: str) -> None:
    at_once(upgrade, [(database_url,)] * 6)
    with Database(database_url) as db:
        assert db.check() == []


def test_a_killed_upgrade_goes_on(database_url: str) -> None:
    """MariaDB commits each table: what a killed upgrade left is completed."""
    with Database(database_url) as db:
        db.upgrade()
        with db.begin() as conn:
            for leftover in ("imageflow_version", "atomdetails", "jobs"):
                conn.exec_driver_sql(f"DROP TABLE {leftover}")
        db.upgrade()
        assert db.check() == []


# SQLite's file


def test_sqlite_is_durable_private_and_enforces_keys(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "imageflow.db"
    with Database(f"sqlite:///{path}") as db:
        db.ready()
        assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o027 == 0
        with db.read() as conn:
            found = {
                p: conn.exec_driver_sql(f"PRAGMA {p}").scalar()
                for p in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_sqlite_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path}/a.db") as db:
        db.ready()
        with db.begin() as writer:
            add(writer, "a")
            assert names(db) == []
        assert names(db) == ["a"]


def test_sqlite_writers_take_turns(tmp_path: Path) -> None:
    """Read, think, write: with deferred transactions the second one would fail or overwrite."""
    with Database(f"sqlite:///{tmp_path}/a.db") as db:
        db.ready()
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
        for call in (db.ready, db.upgrade):
            with pytest.raises(ConfigError, match="no SQLite database") as caught:
                call()
            assert str(path) in str(caught.value) and caught.value.hint
    assert path.read_bytes() == content


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path}") as db, pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        db.ready()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with Database(f"sqlite:///{tmp_path}/f/a.db") as db, pytest.raises(ConfigError, match="can't be opened"):
        db.ready()


def test_a_locked_sqlite_database_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Database(f"sqlite:///{path}") as db:
        db.ready()
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
        db.ready()
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
        assert db.check() == []


def test_no_room_to_make_the_database(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space"), (small_disk / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with Database(f"sqlite:///{small_disk}/imageflow.db") as db:
        with pytest.raises(NoSpace, match=r"imageflow\.db"):
            db.ready()
        (small_disk / "ballast").unlink()
        db.ready()
        assert db.check() == []


# Bad configuration


@pytest.mark.parametrize(
    "url",
    [
        f"nonsense {PASSWORD}",
        f"oracle://me:{PASSWORD}@host/x",
        "sqlite://",
        "sqlite:///:memory:",
        f"postgresql+nodriver://me:{PASSWORD}@host/x",
        f"postgresql+psycopg://me:{PASSWORD}@host:port/x",
    ],
)
def test_a_bad_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Database(url)
    assert PASSWORD not in _everything(caught.value)


def test_a_missing_driver_names_the_extra() -> None:
    code = """
import sys
sys.modules["psycopg"] = sys.modules["pymysql"] = None   # as if not installed
from imageflow.errors import ConfigError
from imageflow.persistence.database import Database
for url, extra in (("postgresql://u:p@h/d", "imageflow[postgresql]"), ("mysql://u:p@h/d", "imageflow[mysql]")):
    try:
        Database(url)
    except ConfigError as error:
        assert extra in str(error), str(error)
    else:
        raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _everything(error: BaseException | None) -> str:
    """All that a log could show of an error: its causes too."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


# Servers that go away


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind; running again afterwards, whatever the test did to it."""
    found: Server = request.getfixturevalue(request.param)
    yield found
    if found._process is None:
        found.start()


def test_an_older_schema_on_a_server_is_not_changed_by_itself(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.database() as url, Database(url) as db:
        db.upgrade()
        monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9998"))
        with pytest.raises(SchemaOutdated, match="older") as caught:
            db.ready()
        assert "imageflow db upgrade" in caught.value.hint


def test_a_server_that_is_away_is_an_error_without_the_password(server: Server) -> None:
    with server.database() as url, Database(url) as db:
        db.upgrade()
        server.stop()
        for call in (db.ready, db.upgrade, lambda: db.transact(lambda conn: add(conn, "x"))):
            with pytest.raises(DatabaseUnavailable, match="does not answer") as caught:
                call()
            assert PASSWORD not in _everything(caught.value) and caught.value.hint
        server.start()
        db.transact(lambda conn: add(conn, "x"))
        assert names(db) == ["x"]


def test_wrong_names_are_configuration_errors(server: Server) -> None:
    url = server.url("no_such_database")
    with Database(url) as db, pytest.raises(ConfigError) as caught:
        db.ready()
    assert PASSWORD not in _everything(caught.value)
    with server.database() as good, Database(good.replace("imageflow:", "nobody_known:")) as db:
        with pytest.raises(ConfigError) as caught:
            db.ready()
        assert PASSWORD not in _everything(caught.value)


def test_transact_waits_for_a_server_that_comes_back(server: Server) -> None:
    with server.database() as url, Database(url) as db:
        db.upgrade()
        names(db)  # a connection in the pool that will be dead
        server.stop()
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(db.transact, lambda conn: add(conn, "once"), 30.0)
            with pytest.raises(TimeoutError):
                waiting.result(2.0)
            server.start()
            waiting.result(10)
        assert names(db) == ["once"]


def test_transact_repeats_the_whole_of_a_broken_transaction(server: Server) -> None:
    with server.database() as url, Database(url) as db:
        db.upgrade()
        tries: list[int] = []

        def work(conn: sa.Connection) -> None:
            tries.append(1)
            add(conn, f"first {len(tries)}")
            if len(tries) == 1:
                server.stop()
                server.start()
            add(conn, f"second {len(tries)}")

        db.transact(work, patience=30)
        assert names(db) == ["first 2", "second 2"]


def test_patience_ends(server: Server) -> None:
    with server.database() as url, Database(url) as db:
        db.upgrade()
        server.stop()
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            db.transact(lambda conn: add(conn, "x"), patience=1.5)
        assert 1.0 < time.monotonic() - started < 10
        server.start()


def test_a_deadlock_is_run_again(server: Server) -> None:
    with server.database() as url, Database(url) as db:
        db.upgrade()
        db.transact(lambda conn: [add(conn, n) for n in "ab"])
        gate = threading.Barrier(2)
        tries: list[str] = []
        errors: list[BaseException] = []

        def lock(first: str, second: str) -> None:
            def work(conn: sa.Connection) -> None:
                tries.append(first)
                conn.execute(sa.update(table).where(table.c.name == first).values(pid=table.c.pid + 1))
                if len(tries) <= 2:
                    gate.wait(20)
                conn.execute(sa.update(table).where(table.c.name == second).values(pid=table.c.pid + 1))

            try:
                db.transact(work)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=lock, args=pair) for pair in ("ab", "ba")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors and len(tries) > 2
        with db.read() as conn:
            assert list(conn.execute(sa.select(table.c.pid)).scalars()) == [3, 3]


# The rest


def test_the_clock_is_now_and_moves(database: Database) -> None:
    def look() -> float:
        with database.begin() as conn:
            return float(conn.execute(sa.select(database.now())).scalar_one())

    first = look()
    assert abs(first - time.time()) < 5
    assert look() > first


def test_errors_of_the_work_pass_unchanged_and_roll_back(database: Database) -> None:
    def work(conn: sa.Connection) -> None:
        add(conn, "x")
        raise ImageflowError("mine")

    with pytest.raises(ImageflowError, match="mine"):
        database.transact(work, patience=5)
    assert names(database) == []


def test_errors_show_no_row(database: Database) -> None:
    database.transact(lambda conn: add(conn, PASSWORD))
    with pytest.raises(sa.exc.IntegrityError) as caught:
        database.transact(lambda conn: add(conn, PASSWORD))
    assert PASSWORD not in str(caught.value).splitlines()[-1]


def test_conductors_live_by_the_clock_of_the_database(database: Database) -> None:
    from imageflow.model import Conductor

    me = Conductor(name="me", host="h", pid=7, started=1.0, until=0.0)
    with database.begin() as conn:
        conductors.beat(conn, me, lease=60)
        conductors.beat(conn, Conductor(name="late", host="h", pid=8, started=2.0, until=0.0), lease=-1)
    with database.begin() as conn:
        assert [c.name for c in conductors.living(conn)] == ["me"]
        conductors.beat(conn, Conductor(name="late", host="h", pid=8, started=2.0, until=0.0, running=3), lease=60)
    with database.begin() as conn:
        assert [(c.name, c.running) for c in conductors.living(conn)] == [("me", 0), ("late", 3)]
        conductors.remove(conn, "me")
        conductors.beat(conn, Conductor(name="late", host="h", pid=8, started=2.0, until=0.0), lease=-90000)
        conductors.forget_dead(conn)
    assert names(database) == []
