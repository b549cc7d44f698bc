"""A worker's hold on a build: it ends with the lease, even when the database can't be reached.

An expired lease is not lost until another conductor takes the build. So a heartbeat that was late, on a
busy host, may still renew it; but it must do so at once, as another conductor may take it any moment.
"""

from __future__ import annotations

import threading
import time

from sqlalchemy import Connection

from imageflow.errors import ClaimLost
from imageflow.persistence.jobboard import SqlJob, SqlJobBoard

LATE = 1.0  # seconds that a thread that finds the lease expired waits for the heartbeat to renew it


class Claim:
    """The right to write about a build, as long as the lease on its job is held."""

    def __init__(self, board: SqlJobBoard, job: SqlJob, lease: float) -> None:
        """`job` as the board has just claimed it, for `lease` seconds."""
        self.board = board
        self.job = job
        self._lease = lease
        self._until = job.asked + lease  # time.monotonic()
        self._lost = False
        self._news = threading.Condition()

    def renewed(self, asked: float) -> None:
        """The lease counts from `asked`, a time.monotonic() before the database extended it."""
        with self._news:
            self._until = asked + self._lease
            self._news.notify_all()

    def drop(self) -> None:
        """From now on nothing is written, whatever the board says."""
        with self._news:
            self._lost = True
            self._news.notify_all()

    @property
    def dropped(self) -> bool:
        return self._lost

    @property
    def forsaken(self) -> bool:
        """Not renewed for two leases, as when the process was stopped: its deadlines no longer apply to the build."""
        return time.monotonic() > self._until + self._lease

    def _over(self) -> bool:
        return time.monotonic() > self._until

    def check(self) -> None:
        """Raise ClaimLost when the lease has expired, even if the database can't be reached, or the process slept."""
        if self._over():
            with self._news:
                if not self._news.wait_for(lambda: self._lost or not self._over(), LATE):
                    self.drop()
        if self._lost:
            raise ClaimLost()

    def prove(self, conn: Connection) -> None:
        """Raise ClaimLost in the transaction of a write that we may no longer make."""
        if self._lost:
            raise ClaimLost()
        self.board.prove(conn, self.job)
