"""A worker that kills itself with SIGKILL at a given moment: `python -m tests.small.bomb CONFIG_FILE idle MOMENT`.

Moments: `commit:N` before the Nth commit of a build's thread; `in:STEP:SECONDS` these seconds after a step's
work began; `after:STEP` when its work is done and nothing of it is stored; `revert:STEP` in its revert.
`count:FILE` does not kill: it appends a byte to the file for each commit of a build's thread.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event

from imageflow.persistence.database import Database
from imageflow.tasks.base import Task
from tests.small import worker


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_commit(reached: Callable[[int], None]) -> None:
    """Call a function with N before a build's thread commits for the Nth time."""
    counter = itertools.count(1)
    connect = Database.__init__

    @functools.wraps(connect)
    def connected(self: Database, *args: Any, **kwargs: Any) -> None:
        connect(self, *args, **kwargs)

        @event.listens_for(self.engine, "commit")
        def commit(_: Any) -> None:
            if threading.current_thread().name.startswith("build"):
                reached(next(counter))

    Database.__init__ = connected  # type: ignore[method-assign]


def around(method: str, step: str, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call a function before and after a step's execute or revert."""
    began = getattr(Task, "__init__")  # noqa: B009

    @functools.wraps(began)
    def created(self: Task, *args: Any, **kwargs: Any) -> None:
        began(self, *args, **kwargs)
        if self.name != step:
            return
        work = getattr(self, method)

        @functools.wraps(work)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before()
            result = work(*args, **kwargs)
            after()
            return result

        setattr(self, method, wrapped)

    Task.__init__ = created  # type: ignore[method-assign]


def later(seconds: float) -> Callable[[], None]:
    def start() -> None:
        if seconds == 0:
            die()
        timer = threading.Timer(seconds, die)
        timer.daemon = True
        timer.start()

    return start


def arm(moment: str) -> None:
    kind, _, rest = moment.partition(":")
    if kind == "commit":
        at_commit(lambda number: die() if number == int(rest) else None)
    elif kind == "count":
        at_commit(lambda number: Path(rest).write_bytes(b"." * number))
    elif kind == "in":
        step, _, seconds = rest.partition(":")
        around("execute", step, later(float(seconds)), lambda: time.sleep(60) if float(seconds) else None)
    elif kind == "after":
        around("execute", rest, lambda: None, die)
    elif kind == "revert":
        around("revert", rest, die, lambda: None)
    else:
        raise SystemExit(f"unknown moment {moment!r}")


if __name__ == "__main__":
    arm(sys.argv[-1])
    worker.main()
