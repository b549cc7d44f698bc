"""Which process is a machine's QEMU: by pid and start time, and by the mark in its environment.

The mark finds a QEMU whose worker was killed before it could store the pid.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Mapping
from pathlib import Path

from imageflow.process import Detached, start_of

NAME = "IMAGEFLOW_MACHINE"  # the machine's name
SITE = "IMAGEFLOW_MACHINES"  # the folder of all machines: two sites on a host don't meet
RUN = "IMAGEFLOW_MACHINE_RUN"  # which start of the machine it is, counted from 1
_KILL_PATIENCE = 15.0  # seconds that the kernel may need to take a large process apart


def environment(site: Path, name: str, run: int) -> dict[str, str]:
    """The whole environment of a machine's QEMU: nothing of the worker's, which may hold secrets."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C.UTF-8",
        NAME: name,
        SITE: str(site.resolve()),
        RUN: str(run),
    }


def marked(site: Path) -> dict[Detached, Mapping[str, str]]:
    """Every living process of this site's machines -> its environment."""
    mark = f"{SITE}={site.resolve()}".encode()
    found: dict[Detached, Mapping[str, str]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "environ").read_bytes().split(b"\0")
            start = start_of(int(entry.name)) if mark in words else None
            if start is not None and lives(process := Detached(int(entry.name), start)):
                pairs = (os.fsdecode(word).partition("=") for word in words if word)
                found[process] = {key: value for key, _, value in pairs}
    return found


def lives(process: Detached) -> bool:
    """Whether that very process is there, and not only a zombie."""
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return int(stat[19]) == process.start and stat[0] not in (b"Z", b"X")


def await_end(process: Detached, timeout: float) -> bool:
    """Wait for its end; -> whether it has ended."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if lives(process):
                poll.poll(timeout * 1000)
        finally:
            os.close(handle)
    return not lives(process)


def kill(process: Detached) -> bool:
    """End it at once, and nobody who has got its pid since; -> whether it has ended."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(process.pid)
        try:
            if lives(process):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
    return await_end(process, _KILL_PATIENCE)
