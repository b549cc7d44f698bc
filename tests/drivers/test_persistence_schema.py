"""The database's schema: what makes it, checks it and refuses it, on each kind of database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imageflow.errors import SchemaOutdated
from imageflow.persistence import schema
from imageflow.persistence.database import Database
from tests.racers import at_once, upgrade
from tests.services import PASSWORD


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
