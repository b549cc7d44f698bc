"""A worker's hold on a build: it ends with the lease, even where the database can't be asked."""

from __future__ import annotations

import threading
import time

from sqlalchemy import Connection

from imageflow.errors import ClaimLost
from imageflow.persistence.jobboard import SqlJob, SqlJobBoard


class Claim:
    """The right to write about a build, as long as the lease on its job is held."""

    def __init__(self, board: SqlJobBoard, job: SqlJob, until: float) -> None:
        """`until`: time.monotonic() at which the lease runs out, unless it is renewed."""
        self.board = board
        self.job = job
        self.until = until
        self._lost = threading.Event()

    def drop(self) -> None:
        """From now on nothing is written, whatever the board says."""
        self._lost.set()

    @property
    def dropped(self) -> bool:
        return self._lost.is_set()

    def check(self) -> None:
        """Raise ClaimLost when the lease has run out, even if the database can't be asked, or the process slept."""
        if time.monotonic() > self.until:
            self.drop()
        if self._lost.is_set():
            raise ClaimLost()

    def prove(self, conn: Connection) -> None:
        """Raise ClaimLost in the transaction of a write that isn't ours to make."""
        if self._lost.is_set():
            raise ClaimLost()
        self.board.prove(conn, self.job)
