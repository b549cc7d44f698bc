"""A compute driver for tests of flows: machines with disks and layers like qemu's, in which nothing runs.

Everything is in files, so its machines outlive a worker, too. The test does what a guest would do:
`say`, `power_off`, `crash`. `answer_at` sets the address of the machines' SSH server.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imageflow.background.flag import Flag
from imageflow.compute import Activity, Address, Layer, Machine, MachineSpec, MachineState, Seed, Source, qcow2
from imageflow.compute.bases import check_base
from imageflow.compute.capacity import Need, Queue, bound, check
from imageflow.compute.layers import FileLayers
from imageflow.compute.qemu import disks, folder, screen
from imageflow.compute.qemu.folder import Folder, MachineRecord
from imageflow.config import Config
from imageflow.errors import Refused, Unavailable
from imageflow.host import alive
from imageflow.host.control import Control
from imageflow.host.locks import locked
from imageflow.host.process import Detached
from imageflow.model import Event

_BROKEN = "broken"  # a file in a machine's folder: its process died
_SCREEN = b"P6 2 2 255\n" + bytes(12)


class FakeCompute:
    """Machines that only seem to run."""

    name = "fake"
    shared = False
    console_delay = 0

    def __init__(self, config: Config) -> None:
        self._site = config.machines_dir
        self._layers_dir = config.layers_dir
        self._limit = bound(config.qemu)
        self.layers = FileLayers(
            config.layers_dir, chain=qcow2.chain, check=check_base, disks=lambda: folder.disks(self._site)
        )
        self._queue = Queue(self._site / ".queue", self._limit, self._taken)

    # -- what a guest would do -----------------------------------------------------------------------

    def say(self, name: str, text: str) -> None:
        """Print on the machine's serial console."""
        with self._folder(name).console.open("a") as console:
            console.write(text)

    def power_off(self, name: str) -> None:
        """The guest has powered itself off."""
        machine = self._folder(name)
        self._change(machine, process=None, off=True)

    def crash(self, name: str) -> None:
        """The machine's process is gone."""
        (self._folder(name).path / _BROKEN).touch()

    def answer_at(self, address: Address) -> None:
        """Set the address of every machine's SSH server."""
        self._site.mkdir(parents=True, exist_ok=True)
        (self._site / ".ssh").write_text(json.dumps(address))

    def seed(self, name: str) -> str | None:
        """What the machine was told at its last start."""
        file = self._folder(name).path / "user-data"
        return file.read_text() if file.exists() else None

    # -- the protocol --------------------------------------------------------------------------------

    def configured(self) -> None:
        """See the protocol: it is this host."""

    def notice(self) -> str:
        return ""

    def watch(self, stop: Flag) -> None:
        while not stop.wait(60.0):
            pass

    def renew(self) -> None:
        return

    def check(self, spec: MachineSpec) -> None:
        if spec.firmware not in ("bios", "uefi"):
            raise Refused(f"there is no firmware {spec.firmware!r}", hint="bios or uefi")
        check(Need(spec.vcpus, spec.memory), self._limit)

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
        if cdrom is not None and not cdrom.is_file():
            raise Refused(f"there is no file {cdrom} to boot machine {name} from")
        if self.state(name) is MachineState.RUNNING:
            return self._as_machine(machine)
        with self._queue.turn(name, Need(spec.vcpus, spec.memory), control, log), locked(machine.lock, control):
            if self.state(name) is not MachineState.RUNNING:
                machine.path.mkdir(exist_ok=True)
                if not machine.disks():
                    disks.create_first(machine, spec, disk, self._layers_dir)
                record = machine.read() or machine.fresh(build_id, spec)
                self._start(machine, dataclasses.replace(record, spec=spec, cdrom=str(cdrom) if cdrom else None), seed)
            return self._as_machine(machine)

    def room(self, name: str, spec: MachineSpec) -> str | None:
        if self.state(name) is MachineState.RUNNING:
            return None
        return self._queue.look(name, Need(spec.vcpus, spec.memory))

    def park(self, name: str, control: Control, wanted: Callable[[], bool]) -> bool:
        machine = self._folder(name)
        if self.state(name) is not MachineState.RUNNING:
            return False
        with locked(machine.lock, control):
            if not wanted():
                return False
            self._change(machine, process=None, parked=True)
            return True

    def state(self, name: str) -> MachineState:
        machine = self._folder(name)
        record = machine.read()
        if record is None:
            return MachineState.ERROR if machine.exists() else MachineState.ABSENT
        if record.parked:
            return MachineState.PARKED
        if (machine.path / _BROKEN).exists():
            return MachineState.ERROR
        return MachineState.STOPPED if record.off else MachineState.RUNNING

    def heard(self, event: Event) -> None:
        return

    def console(self, name: str, offset: int = 0) -> bytes:
        console = self._folder(name).console
        return console.read_bytes()[offset:] if console.exists() else b""

    def screenshot(self, name: str) -> bytes | None:
        return screen.png(_SCREEN) if self.state(name) is MachineState.RUNNING else None

    def activity(self, name: str) -> Activity:
        machine = self._running(name)
        return Activity(machine.console.stat().st_size, sum(machine.disk(n).stat().st_size for n in machine.disks()))

    def address(self, name: str) -> Address:
        self._running(name)
        file = self._site / ".ssh"
        return Address(*json.loads(file.read_text())) if file.exists() else Address("127.0.0.1", 22)

    def stop(self, name: str, control: Control, timeout: float = 120.0) -> None:
        if self.state(name) is MachineState.ERROR:
            raise Unavailable(f"machine {name} broke: it can't be shut down cleanly")
        if self.state(name) is MachineState.PARKED:
            raise Unavailable(f"machine {name} is put away: it can't be shut down cleanly")
        if self.state(name) is MachineState.RUNNING:
            self.power_off(name)

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
            if self.state(name) in (MachineState.ERROR, MachineState.PARKED):
                raise Unavailable(f"machine {name} broke: what is on its disk can't be relied on")
            frozen = place / "disk.qcow2"
            overlay = disks.freeze(machine, frozen)
            layer = self.layers.finish(place, frozen, key=key, parent=parent, title=title, build_id=build_id)
            machine.age_out(overlay)
            return layer

    def disk(self, name: str, control: Control) -> Source:
        machine = self._folder(name)
        if self.state(name) is not MachineState.STOPPED:
            raise Unavailable(f"machine {name} is not powered off")
        return Source(str(machine.disk(machine.disks()[-1])))

    def delete(self, name: str) -> None:
        machine = self._folder(name)
        self._queue.leave(name)
        if machine.exists():
            with locked(machine.lock):
                machine.remove()

    def list(self, build_id: str | None = None) -> Sequence[str]:
        return [name for name in folder.names(self._site) if build_id is None or name.startswith(f"{build_id}-")]

    # -- its files -----------------------------------------------------------------------------------

    def _start(self, machine: Folder, record: MachineRecord, seed: Seed | None) -> None:
        (machine.path / _BROKEN).unlink(missing_ok=True)
        machine.console.touch()
        if seed is not None:
            (machine.path / "user-data").write_text(seed.user_data)
        process = Detached(0, time.time_ns())
        machine.write(
            dataclasses.replace(
                record, run=record.run + 1, process=process, off=False, parked=False, host_boot=alive.boot_id()
            )
        )

    def _change(self, machine: Folder, **values: object) -> None:
        record = machine.read()
        if record is not None:
            machine.write(dataclasses.replace(record, **values))  # type: ignore[arg-type]

    def _running(self, name: str) -> Folder:
        if self.state(name) is not MachineState.RUNNING:
            raise Unavailable(f"machine {name} does not run")
        return self._folder(name)

    def _as_machine(self, machine: Folder) -> Machine:
        record = machine.read()
        if record is None or record.process is None:
            raise Unavailable(f"machine {machine.name} does not run")
        return Machine(machine.name, MachineState.RUNNING, f"{record.process.pid}:{record.process.start}")

    def _taken(self) -> dict[str, Need]:
        running = (name for name in self.list() if self.state(name) is MachineState.RUNNING)
        found = ((name, self._folder(name).read()) for name in running)
        return {name: Need(record.spec.vcpus, record.spec.memory) for name, record in found if record is not None}

    def _folder(self, name: str) -> Folder:
        return folder.of(self._site, name)
