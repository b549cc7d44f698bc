"""The driver nova: every machine is a server with a key pair, and temporary images of its own.

A process that changes a machine holds its lock on this host; a build is on one host at a time. Nova's answers are
never relied on alone: everything is found by its name and brought to the state it should have.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imageflow.background.flag import Flag
from imageflow.compute import Activity, Address, Layer, Machine, MachineSpec, MachineState, Seed, Source
from imageflow.compute.bases import check_base
from imageflow.compute.capacity import UNBOUNDED, Queue
from imageflow.compute.names import checked
from imageflow.compute.nova import media
from imageflow.compute.nova.console import ConsoleFile
from imageflow.compute.nova.creation import Creation
from imageflow.compute.nova.keypairs import Keypairs
from imageflow.compute.nova.layers import NovaLayers
from imageflow.compute.nova.media import MachineImages
from imageflow.compute.nova.network import Network
from imageflow.compute.nova.servers import (
    BLANK,
    DISK,
    INSTALLING,
    MACHINE,
    PARKED,
    WAKE,
    Servers,
    launched,
    power,
    power_off,
    stage_of,
    task,
)
from imageflow.compute.nova.snapshots import snapshot
from imageflow.config import Config
from imageflow.errors import MachineLost, NotFound, Refused, TimedOut, Unavailable
from imageflow.host.control import Control
from imageflow.host.locks import locked
from imageflow.model import Event
from imageflow.openstack import Cloud
from imageflow.openstack.image import GlanceImage
from imageflow.openstack.images import Images

_STOP = 300.0  # seconds until a server must be off whose guest ignores the power button: Nova forces it by then
_HOLD = 15.0  # seconds; Nova shows no console of a server that is off, and may be slow to show that of a running one


class NovaCompute:
    """Machines in a project of a cloud."""

    name = "nova"
    shared = True

    def __init__(self, config: Config) -> None:
        self._config = config.nova
        self.console_delay = math.ceil(max(_HOLD, 5 * config.nova.poll))
        self._site = config.machines_dir
        self._most_console = int(config.builds.max_console * 2**20)
        self.cloud = Cloud(config.openstack)
        self._images = Images(self.cloud)
        self._servers = Servers(self.cloud, config.nova.poll)
        self._looked: dict[str, float] = {}  # name -> when its console was last read
        self._network = Network(self.cloud, config.nova)
        self._keypairs = Keypairs(self.cloud)
        self._media = MachineImages(self._images)
        self._layers = NovaLayers(self._images, config.layers_dir)
        self.layers = self._layers
        self._creation = Creation(
            config.nova,
            self.cloud,
            self._images,
            self._servers,
            self._network,
            self._keypairs,
            self._media,
            Queue(self._site / ".queue", UNBOUNDED, dict),
        )

    def configured(self) -> None:
        """See the protocol."""
        _ = self.cloud.session

    def notice(self) -> str:
        return ""

    def watch(self, stop: Flag) -> None:
        while not stop.wait(60.0):
            pass

    def renew(self) -> None:
        return

    def check(self, spec: MachineSpec) -> None:
        self._creation.check(spec)

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
        if cdrom is not None and not cdrom.is_file():
            raise NotFound(f"there is no ISO {cdrom}")
        with self._locked(name, control):
            server = self._servers.one(name)
            if server is not None and server.status == "ERROR" and (not launched(server) or stage_of(server) == BLANK):
                self._servers.delete(name, control)  # its disk is empty
                server = None
            if server is None and disk is None and cdrom is None:
                raise MachineLost  # without `disk` the caller expected to continue from the machine's own disk
            if server is None or server.status == "BUILD":
                server = self._creation.create(name, spec, build_id, control, log, disk, cdrom, seed)
            self._network.give_floating(server.id, name, control)
            stage = stage_of(server)
            begun = stage == INSTALLING and (server.status == "RESCUE" or self._servers.ejected(server))
            if cdrom is not None and stage in (BLANK, INSTALLING) and not begun:
                server = self._insert(server, name, build_id, spec, cdrom, control)
            elif stage != INSTALLING:
                server = self._start(server, name, control)
            return Machine(name, self._servers.state(server), server.id)

    def room(self, name: str, spec: MachineSpec) -> str | None:
        return self._creation.room(name)

    def park(self, name: str, control: Control, wanted: Callable[[], bool]) -> bool:
        """See the protocol: shelved, or off where that is not allowed. Its memory is lost, as by a reboot."""
        if self.state(name) is not MachineState.RUNNING:
            return False
        with self._locked(name, control):
            server = self._servers.one(name)
            if server is None or server.status != "ACTIVE" or stage_of(server) != DISK or not wanted():
                return False
            self._look(name, server)  # its output is gone with its next boot
            self._servers.mark_parked(server, True)
            try:
                self._shelve(server, control)
            except Refused:  # a policy, or no space for its disk
                self._servers.lead(
                    server,
                    "power a server off",
                    lambda s: s.status == "SHUTOFF" and task(s) is None,
                    power_off,
                    control=control,
                    timeout=_STOP,
                )
            return True

    def _shelve(self, server: Any, control: Control) -> None:
        """Nova shuts the guest down, saves its disk as an image, and gives the host's memory and processors to others."""
        self._servers.lead(
            server,
            "shelve a server",
            lambda s: s.status in ("SHELVED", "SHELVED_OFFLOADED") and task(s) is None,
            lambda s: s.shelve(),
            control=control,
            timeout=_STOP + self._config.snapshot_timeout,
        )

    def stop(self, name: str, control: Control, timeout: float = 120.0) -> None:
        server = self._servers.one(checked(name))
        if server is None or self._servers.state(server) is MachineState.STOPPED:
            return
        if (state := self._servers.state(server)) in (MachineState.ERROR, MachineState.PARKED):
            how = "broke" if state is MachineState.ERROR else "is put away"
            raise Unavailable(
                f"machine {name} {how}: it can't be shut down cleanly", hint="start it again, or delete it"
            )
        self._look(name, server)  # its shutdown output is gone with its next boot
        if server.metadata.get(PARKED):  # it was not put away after all
            self._servers.mark_parked(server, False)
        self._servers.lead(
            server,
            "power a server off",
            lambda s: s.status == "SHUTOFF" and task(s) is None,
            power_off,
            control=control,
            timeout=max(timeout, _STOP),
        )

    def delete(self, name: str) -> None:
        control = Control()
        self._creation.line.leave(checked(name))
        with self._locked(name, control):
            self._servers.delete(name, control)
            self._network.take_floating(name)
            self._keypairs.remove(name)
            self._media.remove(name)
            shutil.rmtree(self._site / name, ignore_errors=True)

    def list(self, build_id: str | None = None) -> Sequence[str]:
        found = {server.metadata[MACHINE] for server in self._servers.all()}
        found |= self._media.machines() | self._keypairs.machines()
        return sorted(name for name in found if build_id is None or name.startswith(f"{build_id}-"))

    # -- looking -------------------------------------------------------------------------------------

    def state(self, name: str) -> MachineState:
        return self._servers.state(self._servers.seen(checked(name)))

    def heard(self, event: Event) -> None:
        self._servers.heard(event)

    def console(self, name: str, offset: int = 0) -> bytes:
        if (server := self._servers.seen(checked(name))) is None:
            return b""
        if time.monotonic() - self._looked.get(name, -math.inf) >= self._config.poll:
            self._look(name, server)
        return self._console(name).read(offset)

    def screenshot(self, name: str) -> bytes | None:
        return None

    def activity(self, name: str) -> Activity:
        if self.state(name) is not MachineState.RUNNING:
            raise Unavailable(f"machine {name} does not run")
        return Activity(len(self.console(name)), None)

    def address(self, name: str) -> Address:
        server = self._servers.seen(checked(name))
        if server is None or self._servers.state(server) is not MachineState.RUNNING:
            raise Unavailable(f"machine {name} does not run")
        return self._network.address(server, name)

    # -- disks ---------------------------------------------------------------------------------------

    def checkpoint(
        self, name: str, key: str, *, parent: str | None, title: str, build_id: str, control: Control
    ) -> Layer:
        """See the protocol. A machine installed from a CD runs from its disk afterwards: Nova can't do otherwise."""
        if self._servers.one(name) is None:
            raise Refused(f"there is no machine {name}")
        with self._locked(name, control):
            server = self._servers.one(name)
            if server is None or self._servers.state(server) in (MachineState.ERROR, MachineState.PARKED):
                raise Unavailable(f"machine {name} broke: what is on its disk can't be relied on")
            installing = stage_of(server) == INSTALLING
            layer = self._layers.of(key, build_id)
            if layer is None:
                if installing:
                    server = self._eject(server, control)
                    server = self._freeze(server, control)
                identity = self._layers.identity(key, build_id)
                image = self._snapshot(server, f"imageflow-layer-{key[:12]}", identity, control)
                layer = self._layers.made(image, parent=parent, title=title)
            if installing:
                self._installed(server, name)
                self._start(server, name, control)
            return layer

    def disk(self, name: str, control: Control) -> Source:
        server = self._servers.one(name)
        if self._servers.state(server) is not MachineState.STOPPED:
            raise Unavailable(f"machine {name} is not powered off")
        with self._locked(name, control):
            identity = {MACHINE: name, media.PURPOSE: media.DISK}
            file = self._site / name / f"disk-{server.id}"
            if not file.exists():
                image = self._snapshot(server, f"{name}-disk", identity, control)
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                half = file.with_suffix(f".half.{image.says('disk_format') or 'qcow2'}")
                with half.open("w+b") as to:
                    self._images.download(image, to, control)
                check_base(half, half.suffix[1:])
                half.rename(half.with_name(half.name.replace(".half", "")))
                file.touch()
                self._media.remove(name, media.DISK)
            (whole,) = (p for p in file.parent.glob(f"{file.name}.*") if ".half" not in p.name)
            return Source(str(whole), whole.suffix[1:])

    # -- servers -------------------------------------------------------------------------------------

    def _start(self, server: Any, name: str, control: Control) -> Any:
        """Make sure that a server runs from its disk."""
        if server.status == "ACTIVE" and self._servers.state(server) is MachineState.RUNNING:
            self._servers.mark_parked(server, False)
            return server
        for file in (self._site / name).glob("disk-*"):
            file.unlink(missing_ok=True)
        self._media.remove(name, media.DISK)

        def act(found: Any) -> None:
            if (wake := WAKE.get(found.status)) is not None:
                wake(found)
            elif found.status == "SHUTOFF":
                found.start()
            else:
                found.reboot("HARD")

        def there(found: Any) -> bool:
            return found.status == "ACTIVE" and power(found) == 1 and task(found) is None

        started = self._servers.lead(
            server,
            "start a server",
            there,
            act,
            mend=lambda s: s.reboot("HARD"),
            control=control,
            timeout=self._config.build_timeout,
        )
        self._servers.mark_parked(started, False)
        return started

    def _insert(self, server: Any, name: str, build_id: str, spec: MachineSpec, cdrom: Path, control: Control) -> Any:
        """Boot an empty server from the ISO with its own disk attached: Nova's stable device rescue."""
        iso = self._media.iso(name, build_id, spec, cdrom, control)
        self._servers.note(server, INSTALLING)
        return self._servers.lead(
            server,
            "boot the ISO",
            lambda s: s.status == "RESCUE" and task(s) is None,
            lambda s: s.rescue(image=iso.id),
            mend=lambda s: s.rescue(image=iso.id),
            control=control,
            timeout=self._config.build_timeout,
        )

    def _eject(self, server: Any, control: Control) -> Any:
        """Eject the ISO: the server boots from its disk."""
        return self._servers.lead(
            server,
            "boot from the disk",
            lambda s: s.status in ("ACTIVE", "PAUSED", "SHUTOFF") and task(s) is None,
            lambda s: s.unrescue(),
            mend=lambda s: s.reboot("HARD"),
            control=control,
            timeout=self._config.build_timeout,
        )

    def _freeze(self, server: Any, control: Control) -> Any:
        """Pause a server that begins to boot, before the guest changes the disk."""
        return self._servers.lead(
            server,
            "pause a server",
            lambda s: s.status in ("PAUSED", "SHUTOFF") and task(s) is None,
            lambda s: s.pause(),
            control=control,
            timeout=self._config.build_timeout,
        )

    def _installed(self, server: Any, name: str) -> None:
        """The machine runs from its disk from now on: remove its ISO and blank disk image."""
        self._servers.note(server, DISK)
        self._media.remove(name, media.ISO)

    def _snapshot(self, server: Any, name: str, identity: dict[str, str], control: Control) -> GlanceImage:
        return snapshot(
            self._servers,
            self._images,
            self.cloud,
            server,
            name,
            identity,
            control=control,
            timeout=self._config.snapshot_timeout,
            begin=self._config.build_timeout,
        )

    # -- this host -----------------------------------------------------------------------------------

    def _locked(self, name: str, control: Control) -> Any:
        return locked(self._site / f".{checked(name)}.lock", control)

    def _console(self, name: str) -> ConsoleFile:
        return ConsoleFile(self._site / name / "console.log", self._most_console)

    def _look(self, name: str, server: Any) -> None:
        """Save the current console output; a server without output yet may have no console."""
        if server.status in ("BUILD", "ERROR"):
            return
        self._looked[name] = time.monotonic()
        try:
            text = self._servers.ask_briefly("a console", server.get_console_output)
        except (NotFound, Refused, TimedOut, Unavailable):
            return
        with locked(self._site / f".{name}.console.lock"):
            self._console(name).add(text.encode("utf-8", "replace"))
