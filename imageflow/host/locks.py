"""Locks between processes: a locked file becomes free when its owner ends, for whatever reason."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from imageflow.errors import Unavailable
from imageflow.host.control import Control

_POLL = 0.05  # seconds; blocking in the kernel could not be cancelled
PATIENCE = 60.0  # seconds, for callers without a control


def take(path: Path, *, make: bool = True, mode: int = 0o600) -> int | None:
    """Lock a file or folder; -> its descriptor, to be closed by the caller, None when another process has the lock.

    `make`: create a missing file with this mode; otherwise FileNotFoundError is raised.
    """
    kind = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | (os.O_CREAT if make else 0)
    descriptor = os.open(path, kind | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)  # locked by another process, or renamed or removed by its last owner meanwhile
    return None


@contextlib.contextmanager
def alone(path: Path, mode: int = 0o600) -> Iterator[None]:
    """Hold a lock that is only ever held for moments; waits without a limit. The file stays."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, control: Control | None = None, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock; waits until `control` says stop, or without one for a minute and then raises Unavailable.

    `unless` ends the wait without the lock: nothing is left to do. The file is removed at the end.
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
            path.unlink(missing_ok=True)  # waiting processes take a new one
            os.close(descriptor)
