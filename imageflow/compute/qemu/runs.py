"""The runs of machines: which process is a machine's now, what QEMU says of it, and its end.

A run is known by pid and start time, which are in the machine's record, or by the mark in its
environment, when its worker died before it had written them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from imageflow.compute import MachineState
from imageflow.compute.qemu import accelerator, disks, identity
from imageflow.compute.qemu.folder import Folder, Record
from imageflow.compute.qemu.qmp import Qmp
from imageflow.errors import Unavailable
from imageflow.process import Detached

OFF = "shutdown"  # QEMU's state when the guest has powered itself off
BROKEN = frozenset({"guest-panicked", "internal-error", "io-error"})
HELD_UP = frozenset({"io-error", "paused"})  # it goes on when it is told to
_QUIT = 30.0  # seconds for QEMU's orderly end


class Runs:
    """The runs of all machines of a site; `adopted` and `settle` are for who holds the machine's lock."""

    def __init__(self, site: Path) -> None:
        self._site = site

    def state(self, machine: Folder) -> MachineState:
        """How a machine is, without changing anything."""
        record = machine.read()
        process = self.process(machine, record)
        if process is None:
            if record is not None and record.off and record.host_boot == accelerator.boot_id():
                return MachineState.STOPPED
            return MachineState.ERROR if machine.exists() else MachineState.ABSENT
        try:
            status = self.status(machine)
        except Unavailable:
            # It ended just now, was changed by another worker, or is too busy to answer.
            again = machine.read()
            if again is not None and again != record:
                return self.state(machine)
            if identity.lives(process):
                return MachineState.RUNNING
            return MachineState.ERROR if machine.exists() else MachineState.ABSENT
        if status == OFF:
            return MachineState.STOPPED
        return MachineState.ERROR if status in BROKEN else MachineState.RUNNING

    def process(self, machine: Folder, record: Record | None) -> Detached | None:
        """The living process of a machine."""
        if record is not None and record.process is not None:
            return (
                record.process if record.host_boot == accelerator.boot_id() and identity.lives(record.process) else None
            )
        if not machine.exists() or (record is not None and record.off):
            return None
        return next(iter(self.marked(machine.name)), None)

    def marked(self, name: str) -> dict[Detached, int]:
        """Living processes of this machine -> which start of it they are."""
        found = identity.marked(self._site).items()
        return {process: int(words[identity.RUN]) for process, words in found if words[identity.NAME] == name}

    def names(self) -> Iterable[str]:
        """Of the machines that have a living process."""
        return {words[identity.NAME] for words in identity.marked(self._site).values()}

    def adopted(self, machine: Folder) -> Record | None:
        """The record with the process that is there in truth, or None for it; ends those of starts that were overtaken."""
        record = machine.read()
        processes = self.marked(machine.name)
        mine = [process for process, run in processes.items() if record is not None and run == record.run]
        for stranger in processes.keys() - set(mine):
            identity.kill(stranger)
        if record is None or not mine:
            return None if record is None else dataclasses.replace(record, process=None)
        if record.process != mine[0] or record.port is None:
            with Qmp(machine.path, machine.monitor(record.run)) as monitor:
                port = disks.forwarded_port(monitor)
            record = machine.write(dataclasses.replace(record, process=mine[0], port=port, off=False))
        return record

    def settle(self, machine: Folder) -> None:
        """End the process of a machine that is powered off, or is to be powered off now."""
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
        """Talk to its QEMU; raises Unavailable when it does not run."""
        record = machine.read()
        process = self.process(machine, record)
        if process is None:
            raise Unavailable(f"machine {machine.name} does not run")
        run = record.run if record is not None else self.marked(machine.name).get(process, 0)
        return Qmp(machine.path, machine.monitor(run))

    def status(self, machine: Folder) -> str:
        """What QEMU calls its state."""
        with self.monitor(machine) as monitor:
            return str(monitor.call("query-status")["status"])

    def ask(self, machine: Folder, command: str) -> None:
        """Say something that needs no answer; that it has ended meanwhile is fine."""
        with contextlib.suppress(Unavailable), self.monitor(machine) as monitor:
            monitor.call(command)
