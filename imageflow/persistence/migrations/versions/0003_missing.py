"""Since when and why a version is in its state: it may be deleted in its store from outside."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("versions")}
    for column in (sa.Column("since", sa.Double), sa.Column("why", sa.Text)):
        if column.name not in known:  # MariaDB commits each statement, and a killed upgrade continues here
            op.add_column("versions", column)
