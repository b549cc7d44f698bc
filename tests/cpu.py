"""Processor seconds: what "fast" means in a test, because seconds by the clock depend on what else the machine does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import psutil


def _used(*pids: int) -> float:
    """Used by this process and its ended children, and by other processes with their descendants."""
    used = os.times()
    seconds = used.user + used.system + used.children_user + used.children_system
    for pid in pids:
        for process in (server := psutil.Process(pid), *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


@contextlib.contextmanager
def spent(*pids: int) -> Iterator[Callable[[], float]]:
    """Measure the block's processor seconds, and those of these servers; -> a function that returns them."""
    began = _used(*pids)
    yield lambda: _used(*pids) - began
