"""Bounds what a guest makes QEMU write beside its disks: its console, and QEMU's own messages."""

from __future__ import annotations

import contextlib
from pathlib import Path

from imageflow.compute.qemu.folder import Folder
from imageflow.compute.qemu.runs import Runs
from imageflow.errors import Refused, Unavailable

_OUTPUT = 1 << 20  # bytes of QEMU's messages
_TAIL = 64 << 10  # of which so many stay
_LEFT_OUT = b"\r\n[imageflow: the rest is left out, this is longer than [builds] max_console]\r\n"


def bound(runs: Runs, machine: Folder, most: int) -> None:
    """Disconnect a console that has more than `most` bytes, and shorten QEMU's messages."""
    with contextlib.suppress(Unavailable, Refused, OSError):
        _shorten(machine.output)
    with contextlib.suppress(Unavailable, Refused, OSError):
        if machine.console.stat().st_size > most:
            _disconnect(runs, machine)


def _disconnect(runs: Runs, machine: Folder) -> None:
    with runs.monitor(machine) as monitor:
        if any(one["label"] == "console" and one["filename"] == "null" for one in monitor.call("query-chardev")):
            return
        monitor.call("chardev-change", id="console", backend={"type": "null", "data": {}})
    with machine.console.open("ab") as file:
        file.write(_LEFT_OUT)


def _shorten(output: Path) -> None:
    """QEMU appends to it, so that it may be shortened meanwhile."""
    if output.stat().st_size <= _OUTPUT:
        return
    with output.open("r+b") as file:
        file.seek(-_TAIL, 2)
        tail = file.read(_TAIL)
        file.seek(0)
        file.write(tail)
        file.truncate()
