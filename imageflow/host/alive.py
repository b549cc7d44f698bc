"""Whether a process of this host still runs: known by its pid, its start time, the host's boot, and its pid namespace."""

from __future__ import annotations

import functools
import os
import select
from pathlib import Path


def boot_id() -> str:
    """The host's boot id: changes with each boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_of(pid: int) -> int | None:
    """Clock ticks from the host's boot to a process's start, also of a zombie; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return start_in(stat)


def start_in(stat: bytes) -> int:
    """The same, of what a /proc/PID/stat said."""
    return int(stat.rpartition(b")")[2].split()[19])


@functools.cache
def _namespace() -> str:
    """Of pids: the same pid in another container is another process."""
    return str(os.stat("/proc/self/ns/pid").st_ino)


def mark() -> str:
    """What tells this process, with its pid, from all others that this host ever has."""
    return f"{boot_id()[:8]}.{_namespace()}.{start_of(os.getpid())}"


def is_of_this_boot(its_mark: str) -> bool:
    """Whether the process with this mark began since this host was booted."""
    return its_mark.partition(".")[0] == boot_id()[:8]


def is_gone(pid: int, its_mark: str) -> bool:
    """Whether the process with this pid and mark has ended, with all its threads; False when that can't be known."""
    if not is_of_this_boot(its_mark):
        return True
    namespace, _, start = its_mark.partition(".")[2].partition(".")
    if namespace != _namespace():
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)  # readable once its last thread has ended, reaped or not
        return bool(poll.poll(0)) or str(start_of(pid)) != start
    finally:
        os.close(handle)
