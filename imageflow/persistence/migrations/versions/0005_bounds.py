"""What bounds need: the size of each event, the trigger that an input was learnt by, builds by the time of their end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    _add("events", sa.Column("size", sa.Integer, nullable=False, server_default="0"))
    _add("inputs", sa.Column("rule", sa.String(64)))
    op.create_index("ix_events_size", "events", ["size"], if_not_exists=True)
    op.create_index("ix_observations_time", "observations", ["time"], if_not_exists=True)
    op.create_index("ix_builds_ended", "builds", ["ended"], if_not_exists=True)
    length = "octet_length" if op.get_bind().dialect.name == "postgresql" else "length"
    texts = " + ".join(f"coalesce({length}({name}), 0)" for name in ("data", "source", "id", "subject"))
    op.execute(f"UPDATE events SET size = {texts} WHERE size = 0")  # noqa: S608 - our own names


def _add(table: str, column: sa.Column[object]) -> None:
    """MariaDB commits each statement, and a killed upgrade continues here."""
    if column.name not in {one["name"] for one in sa.inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)
