"""Database servers that are named wrongly or go away: errors without the password, and patience."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from imageflow.errors import ConfigError, DatabaseReadOnly, DatabaseUnavailable, SchemaOutdated
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from imageflow.persistence.tables import conductors as table
from tests.drivers.conductor_rows import add, names
from tests.servers.services import PASSWORD, Server


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


def test_an_older_schema_on_a_server_is_not_changed_by_itself(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.database() as url, Database(url) as db:
        schema.upgrade(db)
        monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "9998"))
        with pytest.raises(SchemaOutdated, match="older") as caught:
            schema.ready(db)
        assert "imageflow db upgrade" in caught.value.hint


def test_a_server_that_is_away_is_an_error_without_the_password(server: Server) -> None:
    with server.database() as url, Database(url) as db:
        schema.upgrade(db)
        server.stop()
        for call in (schema.ready, schema.upgrade, lambda db: db.transact(lambda conn: add(conn, "x"))):
            with pytest.raises(DatabaseUnavailable, match="does not answer") as caught:
                call(db)
            assert PASSWORD not in _everything(caught.value) and caught.value.hint
        server.start()
        db.transact(lambda conn: add(conn, "x"))
        assert names(db) == ["x"]


def test_wrong_names_are_configuration_errors(server: Server) -> None:
    url = server.url("no_such_database")
    with Database(url) as db, pytest.raises(ConfigError) as caught:
        schema.ready(db)
    assert PASSWORD not in _everything(caught.value)
    with server.database() as good, Database(good.replace("imageflow:", "nobody_known:")) as db:
        with pytest.raises(ConfigError) as caught:
            schema.ready(db)
        assert PASSWORD not in _everything(caught.value)


def test_transact_waits_for_a_server_that_comes_back(server: Server) -> None:
    with server.database() as url, Database(url) as db:
        schema.upgrade(db)
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
        schema.upgrade(db)
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
        schema.upgrade(db)
        server.stop()
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            db.transact(lambda conn: add(conn, "x"), patience=1.5)
        assert 1.0 < time.monotonic() - started < 10
        server.start()


def test_a_deadlock_is_run_again(server: Server) -> None:
    with server.database() as url, Database(url) as db:
        schema.upgrade(db)
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


def _switch(server: Server, url: str, read_only: bool) -> str:
    """Let a server take no writes, or take them again; -> the URL of a user for whom that counts."""
    if url.startswith("postgresql"):
        server._admin(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if read_only else 'off'}")
        server._admin("SELECT pg_reload_conf()")
        return url
    name = sa.make_url(url).database
    server._admin("CREATE USER IF NOT EXISTS plain@localhost IDENTIFIED BY 'plain'")
    server._admin(f"GRANT ALL ON {name}.* TO plain@localhost")
    server._admin(f"SET GLOBAL read_only = {int(read_only)}")
    plain = sa.make_url(url).set(username="plain", password="plain")
    return plain.render_as_string(hide_password=False)


def test_a_server_that_became_read_only_is_away(server: Server) -> None:
    """As after a failover: no bug and no end of anything, but a reason to wait; connections are made anew."""
    with server.database() as url:
        with Database(url) as db:
            schema.upgrade(db)
        with Database(_switch(server, url, False)) as db:
            db.transact(lambda conn: add(conn, "before"))
            _switch(server, url, True)
            try:
                with pytest.raises(DatabaseReadOnly) as caught:
                    _until_read_only(db)
                assert caught.value.hint and isinstance(caught.value, DatabaseUnavailable)
                assert db.engine.pool.checkedin() == 0  # type: ignore[attr-defined]
                assert names(db)[0] == "before"
                timer = threading.Timer(1.0, _switch, [server, url, False])
                timer.start()
                db.transact(lambda conn: add(conn, "after"), patience=30)
                timer.join()
            finally:
                _switch(server, url, False)
            assert "after" in names(db)


def _until_read_only(db: Database) -> None:
    """PostgreSQL's processes read their options a moment later."""
    for number in range(100):
        db.transact(lambda conn, number=number: add(conn, f"meanwhile {number}"))  # type: ignore[misc]
        time.sleep(0.1)
