"""Answers to requests of the API that have an Idempotency-Key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0007"
down_revision = "0006"

LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
SERVER = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


def upgrade() -> None:
    op.create_table(
        "api_answers",
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("request", sa.String(64), nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("body", LONG, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("project", "name", name="pk_api_answers"),
        if_not_exists=True,
        **SERVER,
    )
    op.create_index("ix_api_answers_created", "api_answers", ["created"], if_not_exists=True)
