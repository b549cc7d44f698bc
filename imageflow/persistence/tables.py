"""Every table of imageflow's own, for SQLite, PostgreSQL and MariaDB; TaskFlow's are in flowstore.

Times are seconds since the epoch (double). JSON columns hold text, so that all three databases
store and return exactly the same value. This module must stay cheap to import: no taskflow here.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import LONGTEXT

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)

# MariaDB compares names without regard to case unless told otherwise.
SERVER: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}

LongText = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")


class JsonText(sa.types.TypeDecorator[Any]):
    """Any JSON value, kept as text."""

    impl = LongText
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        return None if value is None else json.dumps(value, sort_keys=True)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        return None if value is None else json.loads(value)


builds = sa.Table(
    "builds",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(12), nullable=False, unique=True),
    sa.Column("image", sa.String(255), nullable=False),
    sa.Column("method", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("wish", sa.String(16)),
    sa.Column("key", sa.String(64), nullable=False),
    # The key again while this build stands for it (active, or succeeded and its version still there):
    # the unique index is what makes two engines that want the same thing make one build.
    sa.Column("claim", sa.String(64), unique=True),
    sa.Column("forced", sa.Boolean, nullable=False, default=False),
    sa.Column("reason", LongText, nullable=False),
    sa.Column("recipe", JsonText, nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("pins", JsonText, nullable=False),
    sa.Column("flow", sa.String(36), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("started", sa.Double),
    sa.Column("ended", sa.Double),
    sa.Column("paused", sa.Double),
    sa.Column("deadline", sa.Double),
    sa.Column("conductor", sa.String(191)),
    sa.Column("host", sa.String(191)),
    sa.Column("step", sa.String(64)),
    sa.Column("error", LongText),
    sa.Column("hint", LongText),
    sa.Column("digest", sa.String(64)),
    sa.Index(None, "image", "seq"),
    sa.Index(None, "state", "seq"),
    sa.Index(None, "key"),
    **SERVER,
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("build_id", sa.String(12), sa.ForeignKey("builds.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("progress", sa.Double, nullable=False, default=0.0),
    sa.Column("message", sa.Text),
    sa.Column("started", sa.Double),
    sa.Column("ended", sa.Double),
    sa.Column("error", LongText),
    sa.Column("conductor", sa.String(191)),
    sa.Column("phases", JsonText),
    **SERVER,
)

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("image", sa.String(255), nullable=False),
    sa.Column("build_id", sa.String(12), nullable=False, unique=True),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("store", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("artifacts", JsonText, nullable=False),
    sa.Column("properties", JsonText, nullable=False),
    sa.Column("packages", sa.Integer),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Index(None, "state", "image", "id"),  # what is there stays few, what was there grows for ever
    sa.Index(None, "digest"),
    **SERVER,
)

resources = sa.Table(
    "resources",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("build_id", sa.String(12), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("host", sa.String(191), nullable=False),
    sa.Column("opened", sa.Double, nullable=False),
    sa.Column("closed", sa.Double),
    sa.Column("error", LongText),
    sa.UniqueConstraint("build_id", "kind", "name", "host"),
    sa.Index(None, "closed", "host"),
    **SERVER,
)

conductors = sa.Table(
    "conductors",
    metadata,
    sa.Column("name", sa.String(191), primary_key=True),
    sa.Column("host", sa.String(191), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    sa.Column("running", sa.Integer, nullable=False, default=0),
    **SERVER,
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("uuid", sa.String(36), nullable=False, unique=True),
    sa.Column("board", sa.String(64), nullable=False),
    sa.Column("name", sa.String(191), nullable=False, unique=True),  # the build's id: one job per build at most
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("details", JsonText, nullable=False),
    sa.Column("book", JsonText),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("owner", sa.String(191)),
    sa.Column("until", sa.Double, nullable=False, default=0.0),
    sa.Column("fence", sa.Integer, nullable=False, default=0),
    sa.Column("trashed", sa.Boolean, nullable=False, default=False),
    sa.Index(None, "board", "trashed", "priority", "seq"),
    **SERVER,
)
