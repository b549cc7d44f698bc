"""Locks that processes share: a locked file is free again when its owner is gone, however it went."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imageflow.control import Control
from imageflow.errors import Unavailable

_POLL = 0.05  # seconds; the kernel's own waiting could not be cancelled
PATIENCE = 60.0  # seconds, for those that nobody can cancel


def take(path: Path) -> int | None:
    """Lock a file, which is made; -> its descriptor, None when somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)  # another's, or removed by its last owner while we waited
    return None


@contextlib.contextmanager
def locked(path: Path, control: Control | None = None, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock; waits for it until `control` says stop, without one for a minute, and then raises Unavailable.

    `unless` ends the waiting without the lock: there is nothing left to be done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    control = control or Control()
    deadline = time.monotonic() + PATIENCE
    bounded = control.build_id == ""
    while (descriptor := take(path)) is None and not unless():
        if bounded and time.monotonic() > deadline:
            raise Unavailable(f"{path.name.strip('.')} is held by another process for {PATIENCE:.0f} seconds")
        control.wait(_POLL)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)  # who waits for it takes a new one
            os.close(descriptor)
