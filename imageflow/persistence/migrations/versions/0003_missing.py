"""Since when and why a version is what it is: somebody deletes it in its store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    known = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("versions")}
    for column in (sa.Column("since", sa.Double), sa.Column("why", sa.Text)):
        if column.name not in known:  # MariaDB commits at each statement, and a killed upgrade goes on here
            op.add_column("versions", column)
