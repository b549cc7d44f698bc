"""Database servers that are named wrongly or go away: errors without the password, and patience."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from imageflow.errors import ConfigError, DatabaseUnavailable, SchemaOutdated
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from imageflow.persistence.tables import conductors as table
from tests.drivers.conductor_rows import add, names
from tests.services import PASSWORD, Server


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
