"""The runs of machines: a machine's current process, QEMU's state of it, and its end.

A run is known by pid and start time, stored in the machine's record, or by the mark in its environment
when its worker died before it had written the record.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from imageflow.compute import MachineState
from imageflow.compute.qemu import identity
from imageflow.compute.qemu.folder import Folder, MachineRecord
from imageflow.compute.qemu.qmp import Qmp
from imageflow.errors import Unavailable
from imageflow.host import alive
from imageflow.host.process import Detached

OFF = "shutdown"  # QEMU's state when the guest has powered itself off
BROKEN = frozenset({"guest-panicked", "internal-error", "io-error"})
HELD_UP = frozenset({"io-error", "paused", "postmigrate"})  # it can be resumed
_LAST_BREATH = 2.0  # seconds from the end of QEMU's sockets to that of the process
_QUIT = 30.0  # seconds for a clean exit of QEMU


class Runs:
    """The runs of all machines of a site; `adopted` and `settle` need the machine's lock."""

    def __init__(self, site: Path) -> None:
        self._site = site

    def state(self, machine: Folder) -> MachineState:
        """A machine's state; changes nothing."""
        record = machine.read()
        process = self.process(machine, record)
        if record is not None and record.parked and machine.memory.exists():
            return MachineState.PARKED
        if process is None:
            if record is not None and record.off and record.host_boot == alive.boot_id():
                return MachineState.STOPPED
            return MachineState.ERROR if machine.exists() else MachineState.ABSENT
        try:
            status = self.status(machine)
        except Unavailable:
            # It has just ended, was changed by another worker, or is too busy to answer.
            again = machine.read()
            if again is not None and again != record:
                return self.state(machine)
            if identity.lives(process):
                return MachineState.RUNNING
            return MachineState.ERROR if machine.exists() else MachineState.ABSENT
        if status == OFF:
            return MachineState.STOPPED
        return MachineState.ERROR if status in BROKEN else MachineState.RUNNING

    def process(self, machine: Folder, record: MachineRecord | None) -> Detached | None:
        """The running process of a machine."""
        if record is not None and record.process is not None:
            return record.process if record.host_boot == alive.boot_id() and identity.lives(record.process) else None
        if not machine.exists() or (record is not None and record.off):
            return None
        return next(iter(self.marked(machine.name)), None)

    def marked(self, name: str) -> dict[Detached, int]:
        """Running processes of this machine -> the number of their start."""
        found = identity.marked(self._site).items()
        return {process: int(words[identity.RUN]) for process, words in found if words[identity.NAME] == name}

    def names(self) -> Iterable[str]:
        """Names of the machines with a running process."""
        return {words[identity.NAME] for words in identity.marked(self._site).values()}

    def adopted(self, machine: Folder) -> MachineRecord | None:
        """The record with the process that actually runs, or None for it; ends processes of superseded starts."""
        record = machine.read()
        processes = self.marked(machine.name)
        mine = [process for process, run in processes.items() if record is not None and run == record.run]
        for stranger in processes.keys() - set(mine):
            identity.kill(stranger)
        if record is None or not mine:
            return None if record is None else dataclasses.replace(record, process=None)
        if record.process != mine[0] or record.port is None:
            try:
                with Qmp(machine.path, machine.monitor(record.run)) as monitor:
                    port = monitor.forwarded_port()
            except Unavailable:
                if identity.await_end(
                    mine[0], _LAST_BREATH
                ):  # it could not start, and its worker did not live to see it
                    return dataclasses.replace(record, process=None)
                raise
            record = machine.write(dataclasses.replace(record, process=mine[0], port=port, off=False))
        return record

    def settle(self, machine: Folder) -> None:
        """End the process of a machine that is powered off or is to be powered off now."""
        record = self.adopted(machine)
        if record is None or record.process is None:
            return
        self.ask(machine, "quit")
        if not identity.await_end(record.process, _QUIT) and not identity.kill(record.process):
            raise Unavailable(f"process {record.process.pid} of machine {machine.name} does not end")
        machine.write(dataclasses.replace(record, process=None, port=None, off=True))

    def end(self, machine: Folder) -> None:
        """Kill whatever runs as this machine."""
        record = machine.read()
        known = [] if record is None or record.process is None else [record.process]
        for process in {*known, *self.marked(machine.name)}:
            if not identity.kill(process):
                raise Unavailable(f"process {process.pid} of machine {machine.name} does not end")

    # -- what QEMU says ------------------------------------------------------------------------------

    def monitor(self, machine: Folder) -> Qmp:
        """Connect to its QEMU; raises Unavailable when it does not run."""
        record = machine.read()
        process = self.process(machine, record)
        if process is None:
            raise Unavailable(f"machine {machine.name} does not run")
        run = record.run if record is not None else self.marked(machine.name).get(process, 0)
        return Qmp(machine.path, machine.monitor(run))

    def status(self, machine: Folder) -> str:
        """QEMU's name for its state."""
        with self.monitor(machine) as monitor:
            return str(monitor.call("query-status")["status"])

    def ask(self, machine: Folder, command: str) -> None:
        """Send a command whose answer does not matter; QEMU may have ended meanwhile."""
        with contextlib.suppress(Unavailable), self.monitor(machine) as monitor:
            monitor.call(command)
