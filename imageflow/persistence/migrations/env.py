"""Run by alembic: the migrations, on the connection and in the transaction that schema.py holds."""

from __future__ import annotations

from alembic import context

from imageflow.persistence.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite can't alter a column: alembic rebuilds the table
)
context.run_migrations()
