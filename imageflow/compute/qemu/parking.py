"""Puts machines away and brings them back: the memory goes into a file, and QEMU ends.

The file is valid as long as the record says `parked`. That word is removed before the machine may run again, because from
then on its disk changes: whichever process is killed at any point, a memory never meets a disk that it does not fit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time

from imageflow.compute.files import check_space, trouble
from imageflow.compute.qemu import identity
from imageflow.compute.qemu.folder import Folder, MachineRecord
from imageflow.compute.qemu.runs import Runs
from imageflow.errors import NoSpace, Refused, Unavailable
from imageflow.host.control import Control

LOADED = frozenset({"paused", "postmigrate"})  # QEMU's states of a machine whose memory is in its file
_ENDS = frozenset({"completed", "failed", "cancelled"})
_LOGIN = re.compile(r"TCP\[ESTABLISHED\]\s+\d+\s+\S+\s+\S+\s+\S+\s+22\s")
_POLL = 0.1  # seconds
_LONGEST = 600.0  # seconds for a memory to be written or read
_END = 10.0  # seconds for QEMU to give a migration up
_MARGIN = 64 << 20  # bytes that stay free on the disk


def park(runs: Runs, machine: Folder, control: Control) -> bool:
    """Put a running machine away, unless a user is logged in; the caller holds its lock."""
    record = runs.adopted(machine)
    if record is None or record.process is None or record.seeded is None:
        return False
    if (status := runs.status(machine)) in LOADED:  # a worker died while it put the machine away
        runs.ask(machine, "cont")
    elif status != "running":
        return False
    check_space(machine.path, (record.spec.memory << 20) + _MARGIN, f"the memory of machine {machine.name}")
    half = machine.memory.with_suffix(".half")
    try:
        with runs.monitor(machine) as monitor:
            if _LOGIN.search(monitor.human("info usernet")):
                return False
            monitor.call("stop")
        with half.open("wb") as file:
            half.chmod(0o600)
            _save(runs, machine, file.fileno(), control)
            os.fsync(file.fileno())
        _settle_disks(machine)
        half.replace(machine.memory)
    except BaseException as error:
        half.unlink(missing_ok=True)
        with contextlib.suppress(Unavailable, Refused):
            _cancel(runs, machine)
            runs.ask(machine, "cont")
        if isinstance(error, OSError):
            raise trouble(error, machine.path) from error
        raise
    machine.write(dataclasses.replace(record, parked=True))
    end(runs, machine)
    return True


def end(runs: Runs, machine: Folder) -> None:
    """End the QEMU of a machine that is parked."""
    record = machine.read()
    if record is None:
        return
    if record.process is not None and not identity.kill(record.process):
        raise Unavailable(f"process {record.process.pid} of machine {machine.name} does not end")
    machine.write(dataclasses.replace(record, process=None, port=None))


def wake(runs: Runs, machine: Folder, record: MachineRecord, control: Control) -> MachineRecord:
    """Let a machine whose memory is loaded run; the caller holds its lock. Raises Refused, Unavailable."""
    deadline = time.monotonic() + _LONGEST
    while (status := runs.status(machine)) == "inmigrate" and time.monotonic() < deadline:
        control.wait(_POLL)
    if status not in LOADED:
        raise Refused(f"the memory of machine {machine.name} can't be loaded: QEMU is in state {status}")
    record = forget(machine, record)
    runs.ask(machine, "cont")
    return record


def forget(machine: Folder, record: MachineRecord) -> MachineRecord:
    """Drop the saved memory: from now on only the disk counts."""
    record = machine.write(dataclasses.replace(record, parked=False))
    machine.memory.unlink(missing_ok=True)
    return record


def _save(runs: Runs, machine: Folder, descriptor: int, control: Control) -> None:
    with runs.monitor(machine) as monitor:
        monitor.call("migrate-set-parameters", max_bandwidth=0)
        monitor.give("memory", descriptor)
        monitor.call("migrate", uri="fd:memory")
    deadline = time.monotonic() + _LONGEST
    while (answer := _migration(runs, machine)).get("status") not in _ENDS:
        if time.monotonic() > deadline:
            raise Unavailable(f"the memory of machine {machine.name} was not written within {_LONGEST:.0f} seconds")
        control.wait(_POLL)
    if answer["status"] != "completed":
        why = answer.get("error-desc", answer["status"])
        kind = NoSpace if "No space" in str(why) else Refused
        raise kind(f"the memory of machine {machine.name} can't be written: {why}")


def _cancel(runs: Runs, machine: Folder) -> None:
    """End a migration that has not ended, and wait for that."""
    deadline = time.monotonic() + _END
    while _migration(runs, machine).get("status", "completed") not in _ENDS and time.monotonic() < deadline:
        with runs.monitor(machine) as monitor:
            monitor.call("migrate_cancel")
        time.sleep(_POLL)


def _migration(runs: Runs, machine: Folder) -> dict[str, object]:
    with runs.monitor(machine) as monitor:
        found: dict[str, object] = monitor.call("query-migrate")
        return found


def _settle_disks(machine: Folder) -> None:
    """Wait until its disks are on the host's disk: QEMU does not flush them, and the host may be rebooted meanwhile."""
    for number in machine.disks():
        descriptor = os.open(machine.disk(number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
