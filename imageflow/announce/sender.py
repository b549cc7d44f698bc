"""Delivers announcements from the outbox to one target, in order, until the target has them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection

from imageflow.announce import Announcer, Stumbled
from imageflow.background.backoff import Backoff
from imageflow.background.flag import Flag
from imageflow.config import Config
from imageflow.errors import DatabaseUnavailable, ImageflowError, Refused, Unavailable
from imageflow.model import Delivery
from imageflow.persistence import leases, outbox
from imageflow.persistence.database import Database
from imageflow.persistence.elapsed import Ages

LOG = logging.getLogger(__name__)
POLL = 0.5  # seconds between two looks into the outbox
FIRST = 0.5  # seconds until the second attempt; later waits grow up to [announce] max_wait
JITTER = 0.5  # of each wait, so that the senders to a target that is back do not all start at once
LEASE = 60.0  # seconds that no other sender takes our delivery; if we are killed, it waits that long
REFUSALS = 8  # a target may change its mind, or be repaired, that often
BREATH = 1.0  # seconds at most between two announcements to a target that stumbles
TIDY = 60.0  # seconds between two looks for expired announcements

Settle = Callable[[Connection], object]


class Sender:
    """The deliveries to one target; senders in several processes share them, one sender per delivery.

    If killed between sending and recording, it sends the same announcement again, with the same id.
    """

    def __init__(
        self, database: Database, config: Config, target: str, announcer: Announcer, *, lease: float | None = None
    ) -> None:
        self.target = target
        self._database = database
        self._config = config.announce
        self._announcer = announcer
        self._lease = lease or max(
            LEASE, 8 * config.announce.timeout
        )  # three requests that connect and wait, with a margin
        self._owner = leases.new_owner(config.host)
        self._ages = Ages(database, config.host)
        self._bell = threading.Event()
        self._settle: Settle | None = None  # the result of the last delivery; not yet in the database
        self._backoff = Backoff(FIRST, self._config.max_wait, jitter=JITTER)  # of the target
        self._tidied: float | None = None

    def wake(self) -> None:
        """There are new announcements; from any thread."""
        self._bell.set()

    def run(self, stop: Flag) -> None:
        """Send until `stop` is set; a delivery in progress is finished."""
        try:
            while not stop.is_set():
                try:
                    self._tidy()
                    wait = self._step(stop)
                except DatabaseUnavailable as error:
                    wait = self._backoff.next()
                    LOG.warning("announcements to %s: %s; trying again in %.1f s", self.target, error, wait)
                self._rest(stop, wait)
            self._finish()
        finally:
            self._announcer.close()

    def _step(self, stop: Flag) -> float:
        """Record the last result, take the next delivery, send it; -> seconds to wait before the next step."""
        if self._settle is None:
            with self._database.read() as conn:
                if not outbox.due(conn, self.target):
                    return POLL
        delivery = self._database.transact(self._next)
        self._settle = None
        if delivery is None:
            return POLL
        if stop.is_set():
            self._settle = lambda conn: outbox.put_back(conn, delivery, self._owner)
            return 0.0
        return self._send(delivery)

    def _next(self, conn: Connection) -> Delivery | None:
        if self._settle is not None:
            self._settle(conn)
        return outbox.take(conn, self.target, self._owner, self._lease)

    def _send(self, delivery: Delivery) -> float:
        """-> seconds to wait; the result is recorded in the next step, or at the end."""
        what = delivery.announcement
        mine = (delivery, self._owner)
        try:
            self._announcer.send(what)
        except Refused as error:
            said = error.message
            if delivery.attempts + 1 >= REFUSALS:
                LOG.error("announcement %s (%s) to %s is given up: %s", what.id, what.type, self.target, said)
                self._settle = lambda conn: outbox.bury(conn, *mine, said)
            else:
                again = self._backoff.after(delivery.attempts + 1)
                self._settle = lambda conn: outbox.failed(conn, *mine, said, again)
            return 0.0
        except Stumbled as error:
            said, again = error.message, self._backoff.after(delivery.attempts + 3)
            self._settle = lambda conn: outbox.failed(conn, *mine, said, again)
            return min(self._away(said), BREATH)  # less than this announcement waits: the others overtake it
        except Unavailable as error:
            said = error.message
            self._settle = lambda conn: outbox.put_back(conn, *mine, said)
            return self._away(said)
        except Exception as error:  # a bug, ours or a library's: it must not end all announcements
            LOG.exception("announcement %s (%s) to %s", what.id, what.type, self.target)
            self._announcer.close()
            said = f"{type(error).__name__}: a bug in imageflow, see its log"
            again = self._backoff.after(delivery.attempts + 3)
            self._settle = lambda conn: outbox.failed(conn, *mine, said, again)
            return min(self._away(said), BREATH)
        if self._backoff.failures:
            LOG.info("announcements to %s go out again", self.target)
        self._backoff.reset()
        self._settle = lambda conn: outbox.sent(conn, *mine)
        return 0.0

    def _away(self, said: str) -> float:
        pause = self._backoff.next()
        if self._backoff.failures == 1:
            LOG.warning("announcements to %s wait: %s", self.target, said)
        self._record()  # the wait may be long: no other sender should wait for our lease
        return pause

    def _record(self) -> None:
        settle = self._settle
        if settle is not None:
            self._database.transact(settle)
            self._settle = None

    def _rest(self, stop: Flag, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not stop.is_set():
            if self._bell.wait(min(left, POLL)):
                self._bell.clear()
                if not self._backoff.failures:  # new announcements do not bring a target back
                    return

    def _tidy(self) -> None:
        every = min(TIDY, self._config.give_up / 4)
        now = time.monotonic()
        if self._tidied is not None and now < self._tidied + every:
            return
        ages = (self._config.give_up, self._config.retention, self._config.give_up + self._config.dead_letters)
        give_up, retention, dead = map(self._ages.stretched, ages)
        given_up = self._database.transact(lambda conn: outbox.give_up(conn, give_up))
        if given_up:
            LOG.error("gave up on %d announcements: see 'imageflow outbox list --dead'", given_up)
        while self._database.transact(lambda conn: outbox.prune(conn, retention, dead)):
            pass
        self._tidied = now

    def _finish(self) -> None:
        try:
            self._record()
        except ImageflowError as error:  # it is sent again, with the same id
            LOG.warning("announcements to %s: the last delivery is not recorded: %s", self.target, error)
