"""Events in, rebuilds, events out; the content digest of image versions."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"

LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
SERVER = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


def upgrade() -> None:
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("versions")}
    if "content" not in known:  # MariaDB commits each statement, and a killed upgrade continues here
        op.add_column("versions", sa.Column("content", sa.String(64)))
    _inbox()
    _recipes()
    _outbox()


def _table(name: str, *parts: Any) -> None:
    op.create_table(name, *parts, if_not_exists=True, **SERVER)


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns), if_not_exists=True)


def _inbox() -> None:
    _table(
        "events",
        sa.Column("seq", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("proof", sa.String(64)),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("subject", sa.Text),
        sa.Column("time", sa.Double),
        sa.Column("data", LONG),
        sa.Column("listener", sa.String(32), nullable=False),
        sa.Column("received", sa.Double, nullable=False),
        sa.Column("deliveries", sa.Integer, nullable=False),
        sa.Column("verdict", sa.String(16)),
        sa.Column("reason", LONG),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sa.UniqueConstraint("digest", name="uq_events_digest"),
        sa.UniqueConstraint("proof", name="uq_events_proof"),
    )
    _index("events", "received")
    _index("events", "verdict", "seq")
    _table(
        "reactions",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("event", sa.Integer, nullable=False),
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("reason", LONG, nullable=False),
        sa.Column("parent", sa.String(255)),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("taken", sa.String(32)),
        sa.Column("outcome", sa.String(16)),
        sa.Column("build_id", sa.String(12)),
        sa.Column("detail", LONG),
        sa.PrimaryKeyConstraint("id", name="pk_reactions"),
        sa.UniqueConstraint("event", "image", name="uq_reactions_event_image"),
        sa.ForeignKeyConstraint(["event"], ["events.seq"], name="fk_reactions_event", ondelete="CASCADE"),
    )
    _index("reactions", "build_id")
    _index("reactions", "image", "open")
    _table(
        "rebuilds",
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("asked", sa.Double, nullable=False),
        sa.Column("answered", sa.Double),
        sa.Column("held", LONG),
        sa.Column("forced", sa.Boolean, nullable=False),
        sa.Column("retry", sa.Double, nullable=False),
        sa.Column("owner", sa.String(191)),
        sa.Column("until", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("image", name="pk_rebuilds"),
    )
    _index("rebuilds", "open", "asked")
    _table(
        "observations",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", LONG, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_observations"),
    )
    _table(
        "refusals",
        sa.Column("endpoint", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("last", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("endpoint", "reason", name="pk_refusals"),
    )


def _recipes() -> None:
    _table(
        "origins",
        sa.Column("name", sa.String(191), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("folder", sa.Boolean, nullable=False),
        sa.Column("head", sa.String(64), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("looked", sa.Integer, nullable=False),
        sa.Column("problems", LONG, nullable=False),
        sa.Column("trouble", LONG),
        sa.PrimaryKeyConstraint("name", name="pk_origins"),
    )
    _table(
        "inputs",
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("event", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("image", "name", name="pk_inputs"),
    )
    _table(
        "recipes",
        sa.Column("id", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(191), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("images", LONG, nullable=False),
        sa.Column("repository", LONG),
        sa.Column("current", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_recipes"),
        sa.UniqueConstraint("name", "version", name="uq_recipes_name_version"),
    )
    _index("recipes", "current", "name")
    _table(
        "recipe_images",
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("recipe_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("published", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("image", name="pk_recipe_images"),
        sa.ForeignKeyConstraint(["recipe_id"], ["recipes.id"], name="fk_recipe_images_recipe_id", ondelete="CASCADE"),
    )
    _index("recipe_images", "published")
    _index("recipe_images", "recipe_id")
    _table(
        "lineage",
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("parent", sa.String(255), nullable=False),
        sa.PrimaryKeyConstraint("image", "parent", name="pk_lineage"),
    )
    _index("lineage", "parent")
    _table(
        "triggers",
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("position", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("type", sa.String(255), nullable=False),
        sa.Column("probe", sa.String(32), nullable=False),
        sa.Column("where", LONG, nullable=False),
        sa.Column("given", LONG, nullable=False),
        sa.PrimaryKeyConstraint("image", "position", name="pk_triggers"),
    )
    _index("triggers", "kind")
    _index("triggers", "probe")
    _index("triggers", "type")


def _outbox() -> None:
    _table(
        "outbox",
        sa.Column("seq", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("build_id", sa.String(12), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("data", LONG, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_outbox"),
        sa.UniqueConstraint("id", name="uq_outbox_id"),
    )
    _index("outbox", "build_id", "seq")
    _table(
        "deliveries",
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next", sa.Double, nullable=False),
        sa.Column("owner", sa.String(191)),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("sent", sa.Double),
        sa.Column("error", LONG),
        sa.PrimaryKeyConstraint("seq", "target", name="pk_deliveries"),
        sa.ForeignKeyConstraint(["seq"], ["outbox.seq"], name="fk_deliveries_seq", ondelete="CASCADE"),
    )
    _index("deliveries", "target", "state", "seq")
