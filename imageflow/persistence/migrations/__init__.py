"""Alembic's migrations; `persistence.schema` runs them, and lists them in REVISIONS."""
