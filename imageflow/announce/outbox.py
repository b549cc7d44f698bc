"""Announcements and their deliveries, for operators."""

from __future__ import annotations

from imageflow.model import Delivery, DeliveryState
from imageflow.persistence import outbox
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST


class Outbox:
    """The announcements and the state of their deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def deliveries(self, *, dead: bool = False, target: str | None = None, limit: int = 100) -> list[Delivery]:
        """Newest first; with `dead` only the dead letters."""
        with self._database.read() as conn:
            return outbox.select(conn, states=[DeliveryState.DEAD] if dead else (), target=target, limit=limit)

    def counts(self) -> dict[tuple[str, DeliveryState], int]:
        """The number of deliveries: (target, state) -> number."""
        with self._database.read() as conn:
            return outbox.counts(conn)

    def replay(self, id: str | None = None, *, target: str | None = None) -> int:
        """Send one announcement again, or all dead letters; -> the number of deliveries. Raises NotFound, Conflict."""
        return self._database.transact(lambda conn: outbox.replay(conn, id, target), patience=REQUEST)
