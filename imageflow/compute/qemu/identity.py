"""Identifies a machine's QEMU process: by pid and start time, and by a mark in its environment.

The mark finds a QEMU whose worker was killed before it could store the pid.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from imageflow.host.alive import start_of
from imageflow.host.process import Detached

NAME = "IMAGEFLOW_MACHINE"  # the machine's name
SITE = "IMAGEFLOW_MACHINES"  # the folder of all machines: two sites on a host don't meet
RUN = "IMAGEFLOW_MACHINE_RUN"  # which start of the machine it is, counted from 1
_KILL_PATIENCE = 15.0  # seconds that the kernel may need to tear down a large process


def environment(site: Path, name: str, run: int) -> dict[str, str]:
    """The whole environment of a machine's QEMU: nothing from the worker's, which may hold secrets."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        NAME: name,
        SITE: str(site.resolve()),
        RUN: str(run),
    }


def marked(site: Path) -> dict[Detached, Mapping[str, str]]:
    """Every running process of this site's machines -> its environment."""
    mark = f"{SITE}={site.resolve()}".encode()
    found: dict[Detached, Mapping[str, str]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "environ").read_bytes().split(b"\0")
            if mark not in words or os.getsid(int(entry.name)) == int(entry.name):
                continue  # the shell that starts QEMU leads its session (process.detach)
            start = start_of(int(entry.name))
            if start is not None and lives(process := Detached(int(entry.name), start)):
                pairs = (os.fsdecode(word).partition("=") for word in words if word)
                found[process] = {key: value for key, _, value in pairs}
    return found


def lives(process: Detached) -> bool:
    """Whether exactly this process still runs and is not a zombie, i.e. holds its files and memory."""
    return not await_end(process, 0.0)


def await_end(process: Detached, timeout: float) -> bool:
    """Wait for the process to end; -> whether it has ended."""
    with _handle(process) as handle:
        return handle is None or _ended(handle, timeout)


def kill(process: Detached) -> bool:
    """Kill it, and never a process that reuses its pid; -> whether it has ended."""
    with _handle(process) as handle:
        if handle is None:
            return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        return _ended(handle, _KILL_PATIENCE)


@contextlib.contextmanager
def _handle(process: Detached) -> Iterator[int | None]:
    """A pidfd of exactly this process, None when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle if start_of(process.pid) == process.start else None
    finally:
        os.close(handle)


def _ended(handle: int, timeout: float) -> bool:
    """Whether it has ended: a pidfd is readable once the last thread has; the first may be a zombie long before."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
