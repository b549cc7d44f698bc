"""The database's schema: what makes it, checks it and refuses it, on each kind of database."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow.errors import SchemaOutdated
from imageflow.model import Event
from imageflow.persistence import events, registry, schema
from imageflow.persistence.database import Database
from tests.servers.services import PASSWORD
from tests.small.racers import at_once, upgrade


def test_upgrade_makes_what_the_code_expects(database: Database) -> None:
    assert schema.check(database) == []
    schema.upgrade(database)
    assert schema.check(database) == []
    schema.ready(database)


def test_check_names_differences(database: Database) -> None:
    with database.begin() as conn:
        conn.exec_driver_sql("ALTER TABLE jobs DROP COLUMN book")
        conn.exec_driver_sql("ALTER TABLE steps ADD COLUMN surplus INTEGER")
        conn.exec_driver_sql("CREATE TABLE of_somebody_else (id INTEGER)")
    assert sorted(schema.check(database)) == ["column jobs.book is missing", "column steps.surplus should not be there"]


def test_check_of_an_empty_database(database_url: str) -> None:
    with Database(database_url) as db:
        assert schema.check(db) == ["the tables are missing"]


def test_ready_upgrades_sqlite_and_refuses_an_empty_server(database_url: str) -> None:
    with Database(database_url) as db:
        if db.dialect == "sqlite":
            schema.ready(db)
            assert schema.check(db) == []
        else:
            with pytest.raises(SchemaOutdated, match="no tables") as caught:
                schema.ready(db)
            assert "imageflow db upgrade" in str(caught.value) and PASSWORD not in str(caught.value)


def test_a_database_of_a_newer_imageflow_is_refused_and_left_alone(database: Database) -> None:
    with database.begin() as conn:
        conn.exec_driver_sql("UPDATE imageflow_version SET version_num = '9999'")
    for call in (schema.ready, schema.upgrade):
        with pytest.raises(SchemaOutdated, match="newer") as caught:
            call(database)
        assert "upgrade imageflow" in caught.value.hint
    assert schema.check(database) == [f"the schema is version 9999, this imageflow needs {schema.REVISIONS[-1]}"]


def test_revisions_are_those_of_the_migrations() -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(schema._config())
    assert tuple(reversed([r.revision for r in script.walk_revisions()])) == schema.REVISIONS


def test_ready_is_one_select_and_no_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with Database(url) as db:
        schema.ready(db)
    code = f"""
import sys, sqlalchemy as sa
from imageflow.persistence import builds, steps, ledger, schema, versions, conductors
from imageflow.persistence.database import Database
db = Database({url!r})
seen = []
sa.event.listen(db.engine, "before_cursor_execute", lambda c, cur, sql, *a: seen.append(sql.split()[0]))
schema.ready(db)
assert seen == ["BEGIN", "SELECT"], seen
assert not {{"taskflow", "alembic", "tenacity", "pydantic"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_many_processes_upgrade_at_once(database_url: str) -> None:
    at_once(upgrade, [(database_url,)] * 6)
    with Database(database_url) as db:
        assert schema.check(db) == []


def test_a_killed_upgrade_goes_on(database_url: str) -> None:
    """MariaDB commits each table: what a killed upgrade left is completed."""
    with Database(database_url) as db:
        schema.upgrade(db)
        with db.begin() as conn:
            for leftover in ("imageflow_version", "atomdetails", "jobs"):
                conn.exec_driver_sql(f"DROP TABLE {leftover}")
        schema.upgrade(db)
        assert schema.check(db) == []


def test_an_upgrade_keeps_what_is_there_and_measures_it(database: Database) -> None:
    """From before events had a size: also one that a killed upgrade has left half done."""
    at_0004(database)
    event = Event("https://git.example/infra", "1", "git.push", subject="naïve", data={"text": "x" * 5000})
    with database.begin() as conn:
        for at, (data, subject) in enumerate([(event.data, event.subject), (None, None)]):
            conn.execute(
                sa.text(
                    "INSERT INTO events (digest, source, id, type, subject, data, listener, received, deliveries)"
                    " VALUES (:digest, :source, '1', 'git.push', :subject, :data, 'http', 1.0, 1)"
                ),
                {
                    "digest": str(at),
                    "source": event.source,
                    "subject": subject,
                    "data": None if data is None else json.dumps(data),
                },
            )
        conn.execute(sa.text("INSERT INTO inputs (image, name, value, event) VALUES ('web', 'git:a#b', 'c', 1)"))
    with database.begin() as conn:  # killed after the first statement, on a database that commits each
        conn.exec_driver_sql("ALTER TABLE events ADD COLUMN size INTEGER NOT NULL DEFAULT 0")
    schema.upgrade(database)
    assert schema.check(database) == []
    with database.read() as conn:
        sizes = list(conn.scalars(sa.select(events.events.c.size).order_by(events.events.c.seq)))
        assert registry.learnt(conn, "web") == {"git:a#b": "c"}
    whole = events.size(event)
    assert sizes[0] in (whole, whole - 1) and sizes[1] == len(event.source) + 1, "SQLite counts characters"


def at_0004(database: Database) -> None:
    """The schema as the version before made it."""
    with database.begin() as conn:
        for table, column in (("events", "size"), ("observations", "time"), ("builds", "ended")):
            on = f" ON {table}" if database.dialect in ("mysql", "mariadb") else ""
            conn.exec_driver_sql(f"DROP INDEX ix_{table}_{column}{on}")
        conn.exec_driver_sql("ALTER TABLE events DROP COLUMN size")
        conn.exec_driver_sql("ALTER TABLE inputs DROP COLUMN rule")
        conn.exec_driver_sql("UPDATE imageflow_version SET version_num = '0004'")
