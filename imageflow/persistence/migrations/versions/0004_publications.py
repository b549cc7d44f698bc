"""Publication targets: where versions are published besides their store, and the state of each publication."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"

LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
SERVER = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}


def upgrade() -> None:
    op.create_table(
        "publications",
        sa.Column("version_id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("wish", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("path", sa.Text),
        sa.Column("error", LONG),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("refused", sa.Integer, nullable=False),
        sa.Column("next", sa.Double, nullable=False),
        sa.Column("owner", sa.String(191)),
        sa.Column("until", sa.Double, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("done", sa.Double),
        sa.PrimaryKeyConstraint("version_id", "target", name="pk_publications"),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name="fk_publications_version_id", ondelete="CASCADE"),
        if_not_exists=True,
        **SERVER,
    )
    op.create_index(
        "ix_publications_target_state_next", "publications", ["target", "state", "next"], if_not_exists=True
    )
