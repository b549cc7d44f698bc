"""The driver qemu: every machine is a folder and, while it runs, a process of QEMU that belongs to nobody.

Whoever changes a machine holds its lock; looking at it needs none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imageflow.compute import Activity, Address, Layer, Machine, MachineSpec, MachineState, Seed, Source
from imageflow.compute.capacity import Need, Queue, bound, check
from imageflow.compute.files import check_space
from imageflow.compute.layers import FileLayers
from imageflow.compute.locks import locked
from imageflow.compute.qemu import accelerator, disks, firmware, folder, identity, qcow2, screen
from imageflow.compute.qemu.argv import DISK_DEVICE, disk_node, disk_options, memory_need
from imageflow.compute.qemu.folder import Folder, Record
from imageflow.compute.qemu.runs import BROKEN, HELD_UP, OFF, Runs
from imageflow.compute.qemu.start import start
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import ImageflowError, Refused, Unavailable
from imageflow.model import Event

_POLL = 0.2  # seconds between two looks at a machine that powers off
_ASK_AGAIN = 15.0  # seconds: a guest that is still starting does not hear the power button
_ROOM = 64 << 20  # bytes without which it is pointless to let a machine go on
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
            config.layers_dir, chain=qcow2.chain, check=disks.check_base, disks=lambda: folder.disks(self._site)
        )
        self._queue = Queue(self._site / ".queue", bound(config.qemu), self._taken)
        self._runs = Runs(self._site)
        self._settled = 0.0

    def configured(self) -> None:
        """See the protocol: it is this host."""

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

        def prepare(found: Record | None) -> Record:
            machine.path.mkdir(mode=0o700, exist_ok=True)
            record = found or machine.fresh(build_id, spec)
            if not machine.disks():
                disks.create_first(machine, spec, disk, self._config.layers_dir)
            elif record.host_boot not in ("", accelerator.boot_id()):
                disks.check_whole(machine.disk(machine.disks()[-1]))
            return dataclasses.replace(
                record, build_id=build_id, spec=spec, cdrom=None if cdrom is None else str(cdrom.absolute())
            )

        return self._run(machine, spec, control, log, seed, prepare)

    def boot_disk(
        self, name: str, *, control: Control, log: Callable[[str], None], seed: Seed | None = None
    ) -> Machine:
        machine = self._folder(name)
        record = machine.read()
        if record is None or not machine.disks():
            raise Refused(f"there is no machine {name} whose disk could be booted")
        if record.cdrom is not None and self.state(name) is MachineState.RUNNING:
            raise Unavailable(f"machine {name} still runs from its CD")
        spec = dataclasses.replace(record.spec, reboots=True)

        def prepare(found: Record | None) -> Record:
            return dataclasses.replace(found or machine.fresh(record.build_id, spec), spec=spec, cdrom=None)

        return self._run(machine, spec, control, log, seed, prepare)

    def stop(self, name: str, control: Control, timeout: float = 120.0) -> None:
        machine = self._folder(name)
        deadline = time.monotonic() + timeout
        ask = 0.0
        while (state := self.state(name)) is MachineState.RUNNING and time.monotonic() < deadline:
            if time.monotonic() >= ask:
                self._runs.ask(machine, "system_powerdown")
                ask = time.monotonic() + _ASK_AGAIN
            control.wait(_POLL)
        if state is MachineState.ERROR:
            raise Unavailable(
                f"machine {name} broke: it can't be powered off in order", hint="start it again, or delete it"
            )
        if state is not MachineState.ABSENT:
            with locked(machine.lock, control):
                self._runs.settle(machine)

    def delete(self, name: str) -> None:
        machine = self._folder(name)
        if self._site.is_dir():
            with locked(machine.lock):
                self._runs.end(machine)
                machine.remove()

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

    def type(self, name: str, keys: Sequence[str]) -> None:
        with self._runs.monitor(self._folder(name)) as monitor:
            for key in keys:
                monitor.call("send-key", keys=[{"type": "qcode", "data": part} for part in key.split("-")])

    def address(self, name: str) -> Address:
        machine = self._folder(name)
        record = machine.read()
        process = self._runs.process(machine, record)
        if record is None or process is None:
            raise Unavailable(f"machine {name} does not run")
        if record.port is not None and record.process == process:
            return Address("127.0.0.1", record.port)
        with self._runs.monitor(machine) as monitor:
            return Address("127.0.0.1", disks.forwarded_port(monitor))

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
            if state is MachineState.ERROR or not machine.disks():
                raise Unavailable(f"machine {name} broke: what is on its disk can't be relied on")
            if state is MachineState.STOPPED:
                self._runs.settle(machine)
            frozen = place / "disk.qcow2"
            # From here on the new overlay is the active disk: what it stands on has the same bytes, whoever
            # is killed when. While QEMU still writes to the old one, the layer is not finished.
            overlay = disks.freeze(machine, frozen)
            if state is MachineState.RUNNING:
                self._switch(machine, overlay)
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
        """The running QEMU writes to the new disk from now on."""
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
        prepare: Callable[[Record | None], Record],
    ) -> Machine:
        """Adopt the machine, or start it as `prepare` says, when there is room."""
        with locked(machine.lock, control):
            running = self._running(machine)
        if running is not None:
            return running
        chosen = accelerator.choose(self._config)
        with (
            self._queue.turn(machine.name, self._need(spec, chosen), control, log),
            locked(machine.lock, control),
        ):
            running = self._running(machine)
            if running is not None:
                return running
            record = start(machine, prepare(machine.read()), chosen, seed, self._config.qemu)
        log(f"machine {machine.name} runs: {spec.vcpus} vcpus, {spec.memory} MiB, {chosen}")
        return self._as_machine(machine, record)

    def _running(self, machine: Folder) -> Machine | None:
        """The machine, if it runs; what is left of a run that is over is ended."""
        record = self._runs.adopted(machine)
        if record is None or record.process is None:
            return None
        try:
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
        """What every machine with a process takes; those that are off give theirs back first."""
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
            with contextlib.suppress(ImageflowError), locked(machine.lock, at_once):  # who holds it, works with it
                if self._runs.state(machine) is MachineState.STOPPED:
                    self._runs.settle(machine)

    def _folder(self, name: str) -> Folder:
        return folder.of(self._site, name)

    def _as_machine(self, machine: Folder, record: Record) -> Machine:
        assert record.process is not None
        process = f"{record.process.pid}:{record.process.start}"
        return Machine(machine.name, MachineState.RUNNING, process, record.accelerator)
