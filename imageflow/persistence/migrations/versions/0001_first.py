"""The first tables: imageflow's own and TaskFlow's.

Each one only if it does not exist: MariaDB commits each of them, and a killed upgrade continues here.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql, postgresql

revision = "0001"
down_revision = None

LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
JSON = LONG.with_variant(postgresql.JSON(), "postgresql")  # TaskFlow's columns
ATOM_TYPES = sa.Enum("TASK_DETAIL", "RETRY_DETAIL", name="atom_types")
INTENTIONS = sa.Enum("EXECUTE", "IGNORE", "REVERT", "RETRY", name="intentions")
SERVER = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


def upgrade() -> None:
    _own()
    _taskflow()


def _table(name: str, *parts: Any) -> None:
    op.create_table(name, *parts, if_not_exists=True, **SERVER)


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns), if_not_exists=True)


def _times() -> tuple[sa.Column[Any], ...]:
    return sa.Column("created_at", sa.DateTime), sa.Column("updated_at", sa.DateTime)


def _enum(stock: sa.Enum) -> Any:
    """On PostgreSQL an own type, created before the tables."""
    return postgresql.ENUM(name=stock.name, create_type=False).with_variant(stock, "sqlite", "mysql", "mariadb")


def _own() -> None:
    _table(
        "builds",
        sa.Column("seq", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("wish", sa.String(16)),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("claim", sa.String(64)),
        sa.Column("forced", sa.Boolean, nullable=False),
        sa.Column("reason", LONG, nullable=False),
        sa.Column("recipe", LONG, nullable=False),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("pins", LONG, nullable=False),
        sa.Column("flow", sa.String(36), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("started", sa.Double),
        sa.Column("ended", sa.Double),
        sa.Column("paused", sa.Double),
        sa.Column("deadline", sa.Double),
        sa.Column("conductor", sa.String(191)),
        sa.Column("host", sa.String(191)),
        sa.Column("step", sa.String(64)),
        sa.Column("error", LONG),
        sa.Column("hint", LONG),
        sa.Column("digest", sa.String(64)),
        sa.PrimaryKeyConstraint("seq", name="pk_builds"),
        sa.UniqueConstraint("id", name="uq_builds_id"),
        sa.UniqueConstraint("claim", name="uq_builds_claim"),
    )
    _index("builds", "image", "seq")
    _index("builds", "state", "seq")
    _index("builds", "key")
    _table(
        "steps",
        sa.Column("build_id", sa.String(12), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("progress", sa.Double, nullable=False),
        sa.Column("message", sa.Text),
        sa.Column("started", sa.Double),
        sa.Column("ended", sa.Double),
        sa.Column("error", LONG),
        sa.Column("conductor", sa.String(191)),
        sa.Column("phases", LONG),
        sa.PrimaryKeyConstraint("build_id", "name", "attempt", name="pk_steps"),
        sa.ForeignKeyConstraint(["build_id"], ["builds.id"], name="fk_steps_build_id", ondelete="CASCADE"),
    )
    _table(
        "versions",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("build_id", sa.String(12), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("store", sa.String(64), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("artifacts", LONG, nullable=False),
        sa.Column("properties", LONG, nullable=False),
        sa.Column("packages", sa.Integer),
        sa.Column("state", sa.String(16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_versions"),
        sa.UniqueConstraint("build_id", name="uq_versions_build_id"),
    )
    _index("versions", "state", "image", "id")
    _index("versions", "digest")
    _table(
        "resources",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("build_id", sa.String(12), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("host", sa.String(191), nullable=False),
        sa.Column("opened", sa.Double, nullable=False),
        sa.Column("closed", sa.Double),
        sa.Column("error", LONG),
        sa.PrimaryKeyConstraint("id", name="pk_resources"),
        sa.UniqueConstraint("build_id", "kind", "name", "host", name="uq_resources_build_id_kind_name_host"),
    )
    _index("resources", "closed", "host")
    _table(
        "conductors",
        sa.Column("name", sa.String(191), nullable=False),
        sa.Column("host", sa.String(191), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("running", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_conductors"),
    )
    _table(
        "jobs",
        sa.Column("seq", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(36), nullable=False),
        sa.Column("board", sa.String(64), nullable=False),
        sa.Column("name", sa.String(191), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("details", LONG, nullable=False),
        sa.Column("book", LONG),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("owner", sa.String(191)),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("trashed", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_jobs"),
        sa.UniqueConstraint("uuid", name="uq_jobs_uuid"),
        sa.UniqueConstraint("name", name="uq_jobs_name"),
    )
    _index("jobs", "board", "trashed", "priority", "seq")


def _taskflow() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for enum in (ATOM_TYPES, INTENTIONS):
            enum.create(op.get_bind(), checkfirst=True)
    _table(
        "logbooks",
        *_times(),
        sa.Column("meta", JSON),
        sa.Column("name", sa.String(255)),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("uuid", name="pk_logbooks"),
    )
    _table(
        "flowdetails",
        *_times(),
        sa.Column("parent_uuid", sa.String(64)),
        sa.Column("meta", JSON),
        sa.Column("name", sa.String(255)),
        sa.Column("state", sa.String(255)),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("uuid", name="pk_flowdetails"),
        sa.ForeignKeyConstraint(
            ["parent_uuid"], ["logbooks.uuid"], name="fk_flowdetails_parent_uuid", ondelete="CASCADE"
        ),
    )
    _index("flowdetails", "parent_uuid")
    _table(
        "atomdetails",
        *_times(),
        sa.Column("meta", JSON),
        sa.Column("parent_uuid", sa.String(64)),
        sa.Column("name", sa.String(255)),
        sa.Column("version", sa.String(64)),
        sa.Column("state", sa.String(255)),
        sa.Column("uuid", sa.String(64), nullable=False),
        sa.Column("failure", JSON),
        sa.Column("results", JSON),
        sa.Column("revert_results", JSON),
        sa.Column("revert_failure", JSON),
        sa.Column("atom_type", _enum(ATOM_TYPES)),
        sa.Column("intention", _enum(INTENTIONS)),
        sa.PrimaryKeyConstraint("uuid", name="pk_atomdetails"),
        sa.ForeignKeyConstraint(
            ["parent_uuid"], ["flowdetails.uuid"], name="fk_atomdetails_parent_uuid", ondelete="CASCADE"
        ),
    )
    _index("atomdetails", "parent_uuid")
