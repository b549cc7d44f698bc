"""A listener that dies at the worst instant: `python -m tests.integration.broker_worker NAME CONFIG ROUNDS`.

Each round is a process of its own (a fork of this one, which spares it the imports). It takes none to two
messages as it should, and kills itself at the next: while the transaction is open, or when it is committed
and the broker does not know. -> prints how many died so; after them one lives on until its input ends.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import warnings
from typing import Any

import sqlalchemy as sa

from imageflow import config
from imageflow.background.flag import Flag
from imageflow.config import Config
from imageflow.events.inbox import SqlInbox
from imageflow.listeners import Surroundings
from imageflow.persistence.database import Database

IDLE = 20  # seconds after which there is nothing left to die of


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dying(SqlInbox):
    """The inbox, with a last message."""

    def __init__(self, database: Database, lives: int, *, committed: bool) -> None:
        super().__init__(database)
        self._lives = lives
        self._committed = committed
        sa.event.listen(database.engine, "commit", self._commits)

    def receive(self, *args: Any, **kwargs: Any) -> Any:
        self._lives -= 1
        receipts = super().receive(*args, **kwargs)
        if self._lives < 0 and self._committed:
            die()
        return receipts

    def _commits(self, conn: sa.Connection) -> None:
        if self._lives < 0 and not self._committed:
            die()


def listen(name: str, settings: Config, inbox: SqlInbox, stop: Flag) -> None:
    from tests.integration.broker_site import LISTENERS

    LISTENERS[name](Surroundings(settings, inbox, None)).run(stop)


def main() -> None:
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    import tests.integration.broker_site  # noqa: F401 - once for all rounds

    name, file, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    settings = config.load([file])
    died = 0
    for number in range(rounds):
        child = os.fork()
        if child == 0:
            signal.alarm(IDLE)
            with Database(settings.database) as database:
                listen(name, settings, Dying(database, random.randrange(3), committed=number % 2 == 0), Flag())
            os._exit(0)
        died += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    print(died, flush=True)
    stop = Flag()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    with Database(settings.database) as database:
        listen(name, settings, SqlInbox(database), stop)


if __name__ == "__main__":
    main()
