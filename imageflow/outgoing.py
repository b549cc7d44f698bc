"""What others were told, or are still to be told, as an operator sees it."""

from __future__ import annotations

from imageflow.model import Delivery
from imageflow.persistence import outbox
from imageflow.persistence.database import Database

PATIENCE = 10.0  # seconds that a request waits for a database that is away


class Outbox:
    """The announcements and how far each of their targets is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def deliveries(self, *, dead: bool = False, target: str | None = None, limit: int = 100) -> list[Delivery]:
        """Newest first; with `dead` only the dead letters."""
        with self._database.read() as conn:
            return outbox.select(conn, states=[outbox.DEAD] if dead else (), target=target, limit=limit)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many there are: (target, state) -> number."""
        with self._database.read() as conn:
            return outbox.counts(conn)

    def replay(self, id: str | None = None, *, target: str | None = None) -> int:
        """Send one announcement again, or all dead letters; -> how many deliveries. Raises NotFound, Conflict."""
        return self._database.transact(lambda conn: outbox.replay(conn, id, target), patience=PATIENCE)
