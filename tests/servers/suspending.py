"""A server that hangs: it is stopped, and goes on afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def suspended(pid: int) -> Iterator[None]:
    """It hangs, really: a signal to stop takes a while on a busy machine."""
    os.kill(pid, signal.SIGSTOP)
    try:
        end = time.monotonic() + 30
        while any(state != "T" for state in _states(pid)):
            assert time.monotonic() < end, f"process {pid} does not stop"
            time.sleep(0.02)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _states(pid: int) -> Iterator[str]:
    """Of each thread of a process."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield thread.joinpath("stat").read_text().rpartition(")")[2].split()[0]
