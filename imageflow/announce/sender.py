"""Takes announcements out of the outbox and gives them to one target, in order, until the target has them."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable

from sqlalchemy import Connection

from imageflow.announce import Announcer, Stumbled, load
from imageflow.config import Config
from imageflow.errors import DatabaseUnavailable, ImageflowError, Refused, Unavailable
from imageflow.model import Delivery
from imageflow.persistence import outbox
from imageflow.persistence.database import Database
from imageflow.signals import Flag

LOG = logging.getLogger(__name__)
POLL = 0.5  # seconds between two looks into the outbox
LEASE = 60.0  # seconds that nobody else sends what we took; when we are killed, it waits that long
REFUSALS = 8  # a target may change its mind, or be mended, that often
BREATH = 1.0  # seconds at most between two announcements to a target that stumbles
TIDY = 60.0  # seconds between two looks for what is too old

Settle = Callable[[Connection], object]


class Sender:
    """The deliveries to one target; of several in as many processes, each delivery is one's at a time.

    Killed between the sending and its record, it sends the same announcement again, with the same id.
    """

    def __init__(
        self, database: Database, config: Config, target: str, announcer: Announcer, *, lease: float | None = None
    ) -> None:
        self.target = target
        self._database = database
        self._config = config.announce
        self._announcer = announcer
        self._lease = lease or max(LEASE, 8 * config.announce.timeout)  # three requests that connect and wait, and more
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._bell = threading.Event()
        self._settle: Settle | None = None  # how the last one ended; not in the database yet
        self._failures = 0  # in a row, of the target
        self._tidied: float | None = None

    def wake(self) -> None:
        """There is something new; from any thread."""
        self._bell.set()

    def run(self, stop: Flag) -> None:
        """Send until `stop` is set; what is being sent then is finished."""
        try:
            while not stop.is_set():
                try:
                    self._tidy()
                    wait = self._step(stop)
                except DatabaseUnavailable as error:
                    self._failures += 1
                    wait = self._pause()
                    LOG.warning("announcements to %s: %s; trying again in %.1f s", self.target, error, wait)
                self._rest(stop, wait)
            self._finish()
        finally:
            self._announcer.close()

    def _step(self, stop: Flag) -> float:
        """Record how the last one ended, take the next one, send it; -> seconds to wait before the next step."""
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
        """-> seconds to wait; what became of it is recorded with the next step, or at the end."""
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
                again = self._backoff(delivery.attempts + 1)
                self._settle = lambda conn: outbox.failed(conn, *mine, said, again)
            return 0.0
        except Stumbled as error:
            said, again = error.message, self._backoff(delivery.attempts + 3)
            self._settle = lambda conn: outbox.failed(conn, *mine, said, again)
            return min(self._away(said), BREATH)  # less than this one waits: the others pass by
        except Unavailable as error:
            said = error.message
            self._settle = lambda conn: outbox.put_back(conn, *mine, said)
            return self._away(said)
        except Exception as error:  # a bug, ours or a library's: it must not end all announcements
            LOG.exception("announcement %s (%s) to %s", what.id, what.type, self.target)
            self._announcer.close()
            said = f"{type(error).__name__}: a bug in imageflow, see its log"
            again = self._backoff(delivery.attempts + 3)
            self._settle = lambda conn: outbox.failed(conn, *mine, said, again)
            return min(self._away(said), BREATH)
        if self._failures:
            LOG.info("announcements to %s go out again", self.target)
        self._failures = 0
        self._settle = lambda conn: outbox.sent(conn, *mine)
        return 0.0

    def _away(self, said: str) -> float:
        self._failures += 1
        if self._failures == 1:
            LOG.warning("announcements to %s wait: %s", self.target, said)
        self._record()  # the wait may be long, and nobody else need wait for our lease
        return self._pause()

    def _record(self) -> None:
        settle = self._settle
        if settle is not None:
            self._database.transact(settle)
            self._settle = None

    def _pause(self) -> float:
        return self._backoff(self._failures)

    def _backoff(self, failures: int) -> float:
        """Seconds, with jitter: half a second at first, twice as much each time, [announce] max_wait at most."""
        return float(min(self._config.max_wait, 0.5 * 2.0 ** min(failures - 1, 20)) * random.uniform(0.5, 1.0))

    def _rest(self, stop: Flag, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not stop.is_set():
            if self._bell.wait(min(left, POLL)):
                self._bell.clear()
                if not self._failures:  # something new does not bring a target back
                    return

    def _tidy(self) -> None:
        every = min(TIDY, self._config.give_up / 4)
        now = time.monotonic()
        if self._tidied is not None and now < self._tidied + every:
            return
        given_up = self._database.transact(lambda conn: outbox.give_up(conn, self._config.give_up))
        if given_up:
            LOG.error("%d announcements are given up: see 'imageflow outbox list --dead'", given_up)
        while self._database.transact(lambda conn: outbox.prune(conn, self._config.retention)):
            pass
        self._tidied = now

    def _finish(self) -> None:
        try:
            self._record()
        except ImageflowError as error:  # it is sent again, with the same id
            LOG.warning("announcements to %s: what was sent last is not recorded: %s", self.target, error)


def senders(database: Database, config: Config) -> list[Sender]:
    """One for each of [announce] targets; raises ConfigError when one can't work as configured."""
    targets = dict.fromkeys(config.announce.targets)
    return [Sender(database, config, target, load(config, target)) for target in targets]
