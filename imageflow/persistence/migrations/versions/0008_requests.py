"""Requests: who asks for an image under a name of their own and holds its version, and what nobody holds any more."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0008"
down_revision = "0007"

LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
SERVER = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


def upgrade() -> None:
    op.create_table(
        "requests",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("wanted", LONG),
        sa.Column("image", sa.String(255), nullable=False),
        sa.Column("policy", sa.String(16), nullable=False),
        sa.Column("user", LONG, nullable=False),
        sa.Column("build_id", sa.String(12)),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("changed", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("project", "name", name="pk_requests"),
        if_not_exists=True,
        **SERVER,
    )
    op.create_index("ix_requests_build_id", "requests", ["build_id"], if_not_exists=True)
    op.create_table(
        "unheld",
        sa.Column("build_id", sa.String(12), nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("build_id", name="pk_unheld"),
        if_not_exists=True,
        **SERVER,
    )
    op.create_index("ix_unheld_since", "unheld", ["since"], if_not_exists=True)
