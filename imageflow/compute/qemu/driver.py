"""The driver qemu: every machine is a folder and, while it runs, a detached QEMU process.

A process that changes a machine holds its lock; reading its state needs none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imageflow.background.flag import Flag
from imageflow.compute import Activity, Address, Layer, Machine, MachineSpec, MachineState, Seed, Source, qcow2
from imageflow.compute.bases import check_base
from imageflow.compute.capacity import Need, Queue, bound, check
from imageflow.compute.files import check_space
from imageflow.compute.layers import FileLayers
from imageflow.compute.qemu import (
    accelerator,
    account,
    confinement,
    disks,
    firmware,
    folder,
    identity,
    parking,
    screen,
    writing,
)
from imageflow.compute.qemu.argv import DISK_DEVICE, disk_node, disk_options, memory_need
from imageflow.compute.qemu.folder import Folder, MachineRecord
from imageflow.compute.qemu.network import Network
from imageflow.compute.qemu.runs import BROKEN, HELD_UP, OFF, Runs
from imageflow.compute.qemu.start import start
from imageflow.config import Config
from imageflow.errors import ImageflowError, Refused, Unavailable
from imageflow.host import alive
from imageflow.host.control import Control
from imageflow.host.locks import locked
from imageflow.model import Event

_POLL = 0.2  # seconds between two looks at a machine that powers off
_ASK_AGAIN = 15.0  # seconds: a guest that is still booting ignores the power button
_ROOM = 64 << 20  # bytes; with less it is pointless to resume a machine
_SETTLE = 2.0  # seconds between two looks for machines that are off and still hold memory


class QemuCompute:
    """Machines on this host."""

    name = "qemu"
    shared = False
    console_delay = 0

    def __init__(self, config: Config) -> None:
        self._config = config
        self._site = config.machines_dir
        self.layers = FileLayers(
            config.layers_dir, chain=qcow2.chain, check=check_base, disks=lambda: folder.disks(self._site)
        )
        self._queue = Queue(self._site / ".queue", bound(config.qemu), self._taken)
        self._runs = Runs(self._site)
        self._network = Network(config)
        self._settled = 0.0

    def configured(self) -> None:
        """See the protocol."""
        self._network.check()

    def notice(self) -> str:
        parts = (self._network.said(), confinement.missing(self._config.qemu.emulator))
        return "; ".join(part for part in parts if part)

    def watch(self, stop: Flag) -> None:
        self._network.watch(stop)

    def renew(self) -> None:
        self._network.renew()
        for name in folder.names(self._site):
            writing.bound(self._runs, self._folder(name), int(self._config.builds.max_console * 2**20))

    def check(self, spec: MachineSpec) -> None:
        if spec.vcpus < 1 or spec.memory < 32 or (spec.disk is not None and spec.disk < 1):
            raise Refused(f"there is no machine of {spec.vcpus} vcpus, {spec.memory} MiB and {spec.disk} GiB")
        disks.need_programs(self._config.qemu.emulator)
        check(self._need(spec, accelerator.choose(self._config)), bound(self._config.qemu))
        if spec.firmware == "uefi":
            firmware.find(self._config.qemu)
        elif spec.firmware != "bios":
            raise Refused(f"there is no firmware {spec.firmware!r}", hint="bios or uefi")

    # -- life ----------------------------------------------------------------------------------------

    def ensure(
        self,
        name: str,
        spec: MachineSpec,
        *,
        build_id: str,
        control: Control,
        log: Callable[[str], None],
        disk: Source | None = None,
        cdrom: Path | None = None,
        seed: Seed | None = None,
    ) -> Machine:
        self.check(spec)
        machine = self._folder(name)

        def prepare(found: MachineRecord | None) -> MachineRecord:
            machine.make()
            record = found or machine.fresh(build_id, spec)
            if record.parked:
                return dataclasses.replace(record, build_id=build_id)  # the same hardware: its memory has to fit
            if not machine.disks():
                disks.create_first(machine, spec, disk, self._config.layers_dir)
            elif record.host_boot not in ("", alive.boot_id()):
                disks.check_whole(machine.disk(machine.disks()[-1]))
            return dataclasses.replace(
                record, build_id=build_id, spec=spec, cdrom=None if cdrom is None else str(cdrom.absolute())
            )

        return self._run(machine, spec, control, log, seed, prepare)

    def room(self, name: str, spec: MachineSpec) -> str | None:
        if self._runs.process(machine := self._folder(name), machine.read()) is not None:
            return None  # it runs, or its end is to be seen
        return self._queue.look(name, self._need(spec, accelerator.choose(self._config)))

    def park(self, name: str, control: Control, wanted: Callable[[], bool]) -> bool:
        machine = self._folder(name)
        if self.state(name) is not MachineState.RUNNING:
            return False
        with locked(machine.lock, control):
            return wanted() and parking.park(self._runs, machine, control)

    def stop(self, name: str, control: Control, timeout: float = 120.0) -> None:
        machine = self._folder(name)
        deadline = time.monotonic() + timeout
        ask = 0.0
        while (state := self.state(name)) is MachineState.RUNNING and time.monotonic() < deadline:
            if time.monotonic() >= ask:
                self._runs.ask(machine, "system_powerdown")
                ask = time.monotonic() + _ASK_AGAIN
            control.wait(_POLL)
        if state in (MachineState.ERROR, MachineState.PARKED):
            how = "broke" if state is MachineState.ERROR else "is put away"
            raise Unavailable(
                f"machine {name} {how}: it can't be shut down cleanly", hint="start it again, or delete it"
            )
        if state is not MachineState.ABSENT:
            with locked(machine.lock, control):
                self._runs.settle(machine)

    def delete(self, name: str) -> None:
        machine = self._folder(name)
        if self._site.is_dir():
            self._queue.leave(name)
            with locked(machine.lock):
                self._runs.end(machine)
                machine.remove()
            self._network.release()

    def list(self, build_id: str | None = None) -> Sequence[str]:
        found = {*folder.names(self._site), *self._runs.names()}
        return sorted(name for name in found if build_id is None or name.startswith(f"{build_id}-"))

    # -- looking -------------------------------------------------------------------------------------

    def state(self, name: str) -> MachineState:
        return self._runs.state(self._folder(name))

    def heard(self, event: Event) -> None:
        return

    def console(self, name: str, offset: int = 0) -> bytes:
        try:
            with self._folder(name).console.open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""

    def screenshot(self, name: str) -> bytes | None:
        machine = self._folder(name)
        try:
            with self._runs.monitor(machine) as monitor:
                file = machine.path / f"screen-{time.monotonic_ns()}.ppm"
                try:
                    file.touch(mode=0o600)
                    account.own(file, self._site, name)
                    monitor.call("screendump", filename=file.name)
                    return screen.png(file.read_bytes())
                finally:
                    file.unlink(missing_ok=True)
        except (Unavailable, Refused, OSError, ValueError):
            return None

    def activity(self, name: str) -> Activity:
        machine = self._folder(name)
        with self._runs.monitor(machine) as monitor:
            written = sum(
                device["stats"]["wr_bytes"]
                for device in monitor.call("query-blockstats")
                if f"/{DISK_DEVICE}/" in device.get("qdev", "")
            )
        return Activity(machine.console.stat().st_size, written)

    def address(self, name: str) -> Address:
        machine = self._folder(name)
        record = machine.read()
        process = self._runs.process(machine, record)
        if record is None or process is None:
            raise Unavailable(f"machine {name} does not run")
        if record.port is not None and record.process == process:
            return Address("127.0.0.1", record.port)
        with self._runs.monitor(machine) as monitor:
            return Address("127.0.0.1", monitor.forwarded_port())

    # -- disks ---------------------------------------------------------------------------------------

    def checkpoint(
        self, name: str, key: str, *, parent: str | None, title: str, build_id: str, control: Control
    ) -> Layer:
        machine = self._folder(name)
        if self.state(name) is MachineState.ABSENT:
            raise Refused(f"there is no machine {name}")
        with locked(machine.lock, control):
            place = self.layers.begin(key, build_id)
            if (made := self.layers.made(place)) is not None:
                return made
            state = self._runs.state(machine)
            if state in (MachineState.ERROR, MachineState.PARKED) or not machine.disks():
                raise Unavailable(f"machine {name} broke: what is on its disk can't be relied on")
            if state is MachineState.STOPPED:
                self._runs.settle(machine)
            frozen = place / "disk.qcow2"
            # From here on the new overlay is the active disk: its backing file has the same bytes, whichever
            # process is killed at any point. While QEMU still writes to the old disk, the layer is not finished.
            overlay = disks.freeze(machine, frozen)
            if state is MachineState.RUNNING:
                self._switch(machine, overlay)
            disks.take_back(frozen)
            layer = self.layers.finish(place, frozen, key=key, parent=parent, title=title, build_id=build_id)
            machine.age_out(overlay)
            return layer

    def disk(self, name: str, control: Control) -> Source:
        machine = self._folder(name)
        if self.state(name) is not MachineState.STOPPED:
            raise Unavailable(f"machine {name} is not powered off")
        with locked(machine.lock, control):
            self._runs.settle(machine)
            return Source(str(machine.disk(machine.disks()[-1])))

    def _switch(self, machine: Folder, overlay: int) -> None:
        """Make the running QEMU write to the new disk."""
        with self._runs.monitor(machine) as monitor:
            devices = [d for d in monitor.call("query-block") if f"/{DISK_DEVICE}/" in d.get("qdev", "")]
            active = devices[0]["inserted"]["node-name"]
            if active == disk_node(overlay):
                return
            nodes = {node["node-name"] for node in monitor.call("query-named-block-nodes", flat=True)}
            if disk_node(overlay) not in nodes:
                monitor.call("blockdev-add", **disk_options(overlay), backing=None)
            monitor.call("blockdev-snapshot", node=active, overlay=disk_node(overlay))

    # -- processes -----------------------------------------------------------------------------------

    def _run(
        self,
        machine: Folder,
        spec: MachineSpec,
        control: Control,
        log: Callable[[str], None],
        seed: Seed | None,
        prepare: Callable[[MachineRecord | None], MachineRecord],
    ) -> Machine:
        """Adopt the machine, or start it as `prepare` says, when there is room."""
        with locked(machine.lock, control):
            running = self._running(machine, control)
        if running is not None:
            self._network.renew()
            return running
        chosen = accelerator.choose(self._config)
        with (
            self._queue.turn(machine.name, self._need(spec, chosen), control, log),
            locked(machine.lock, control),
        ):
            running = self._running(machine, control)
            if running is not None:
                return running
            record = prepare(machine.read())
            if record.parked:
                record = self._back(machine, record, seed, control, log)
            else:
                record = start(machine, record, chosen, seed, self._config.qemu, self._network)
        log(f"machine {machine.name} runs: {spec.vcpus} vcpus, {spec.memory} MiB, {chosen}")
        return self._as_machine(machine, record)

    def _back(
        self, machine: Folder, record: MachineRecord, seed: Seed | None, control: Control, log: Callable[[str], None]
    ) -> MachineRecord:
        """Bring a parked machine back. Raises Unavailable: it stays parked, or its memory is of no use, and it counts as broken."""
        try:
            try:
                record = start(machine, record, record.accelerator, seed, self._config.qemu, self._network)
            except Unavailable as error:  # the host has no memory for it
                self._runs.end(machine)
                raise Unavailable(f"machine {machine.name} can't be brought back now: {error}") from error
        except Refused as error:
            raise self._forgotten(machine, record, control, error) from error
        try:
            record = parking.wake(self._runs, machine, record, control)
        except (Refused, Unavailable) as error:
            raise self._forgotten(machine, record, control, error) from error
        log(f"machine {machine.name} goes on where it was put away")
        return record

    def _forgotten(self, machine: Folder, record: MachineRecord, control: Control, why: ImageflowError) -> Unavailable:
        control.check()
        parking.forget(machine, machine.read() or record)
        self._runs.end(machine)
        return Unavailable(f"machine {machine.name} can't go on from its saved memory: {why}")

    def _running(self, machine: Folder, control: Control) -> Machine | None:
        """The machine, if it runs; remains of an earlier run are ended."""
        record = self._runs.adopted(machine)
        if record is None or record.process is None:
            return None
        try:
            if record.parked:  # a worker died while it was put away or brought back
                return self._as_machine(machine, parking.wake(self._runs, machine, record, control))
            status = self._runs.status(machine)
            if status in HELD_UP:
                check_space(machine.path, _ROOM, f"machine {machine.name}, which was held up by a full disk,")
                self._runs.ask(machine, "cont")
                status = self._runs.status(machine)
        except Unavailable:
            if identity.lives(record.process):
                raise
            return None
        if status == OFF:
            self._runs.settle(machine)
            return None
        if status in BROKEN:
            identity.kill(record.process)
            return None
        return self._as_machine(machine, record)

    # -- capacity ------------------------------------------------------------------------------------

    def _need(self, spec: MachineSpec, accelerator_name: str) -> Need:
        return Need(spec.vcpus, memory_need(spec, accelerator_name))

    def _taken(self) -> dict[str, Need]:
        """What every machine with a process takes; machines that are off are ended first."""
        if time.monotonic() - self._settled > _SETTLE:
            self._settled = time.monotonic()
            self._settle_all()
        found = ((name, self._folder(name).read()) for name in self._runs.names())
        return {name: self._need(record.spec, record.accelerator) for name, record in found if record is not None}

    def _settle_all(self) -> None:
        at_once = Control(time.monotonic())
        for name in folder.names(self._site):
            machine = self._folder(name)
            record = machine.read()
            if record is None or record.process is None or self._runs.state(machine) is not MachineState.STOPPED:
                continue
            with (
                contextlib.suppress(ImageflowError),
                locked(machine.lock, at_once),
            ):  # its holder works with the machine
                if self._runs.state(machine) is MachineState.STOPPED:
                    self._runs.settle(machine)

    def _folder(self, name: str) -> Folder:
        return folder.of(self._site, name)

    def _as_machine(self, machine: Folder, record: MachineRecord) -> Machine:
        assert record.process is not None
        process = f"{record.process.pid}:{record.process.start}"
        return Machine(machine.name, MachineState.RUNNING, process, record.accelerator)
