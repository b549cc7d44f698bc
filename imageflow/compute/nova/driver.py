"""The driver nova: every machine is a server, with a key pair, and images of its own while it needs them.

Whoever changes a machine holds its lock on this host; a build is on one host at a time. What an answer of Nova says
is never all that is relied on: everything is found by its name, and led to the state that it should have.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imageflow.compute import Activity, Address, Layer, Machine, MachineSpec, MachineState, Seed, Source
from imageflow.compute.locks import locked
from imageflow.compute.names import checked
from imageflow.compute.nova import media
from imageflow.compute.nova.console import Console
from imageflow.compute.nova.creation import Creation
from imageflow.compute.nova.keypairs import Keypairs
from imageflow.compute.nova.layers import NovaLayers
from imageflow.compute.nova.media import Media
from imageflow.compute.nova.network import Network
from imageflow.compute.nova.servers import (
    BLANK,
    DISK,
    INSTALLING,
    MACHINE,
    STAGE,
    Servers,
    launched,
    power,
    task,
)
from imageflow.compute.nova.snapshots import snapshot
from imageflow.compute.qemu.disks import check_base
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import MachineLost, NotFound, Refused, TimedOut, Unavailable
from imageflow.model import Event
from imageflow.openstack import Cloud
from imageflow.openstack.image import Image
from imageflow.openstack.images import Images

_STOP = 300.0  # seconds until a server must be off, that its guest would not power off: Nova does it by then
_HOLD = 15.0  # seconds; Nova shows nothing of a server that is off, and may be slow to show what one says that is on
# What brings back a server that somebody has put aside, by its status; nothing else can be done to it before.
_WAKE: dict[str, Callable[[Any], object]] = {
    "PAUSED": lambda server: server.unpause(),
    "SUSPENDED": lambda server: server.resume(),
    "RESCUE": lambda server: server.unrescue(),
    "SHELVED": lambda server: server.unshelve(),
    "SHELVED_OFFLOADED": lambda server: server.unshelve(),
}


class NovaCompute:
    """Machines in a project of a cloud."""

    name = "nova"
    shared = True

    def __init__(self, config: Config) -> None:
        self._config = config.nova
        self.console_delay = math.ceil(max(_HOLD, 5 * config.nova.poll))
        self._site = config.machines_dir
        self.cloud = Cloud(config.openstack)
        self._images = Images(self.cloud)
        self._servers = Servers(self.cloud, config.nova.poll)
        self._looked: dict[str, float] = {}  # name -> when its console was asked for last
        self._network = Network(self.cloud, config.nova)
        self._keypairs = Keypairs(self.cloud)
        self._media = Media(self._images)
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
        )

    def configured(self) -> None:
        """See the protocol."""
        _ = self.cloud.session

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
            if server is not None and server.status == "ERROR" and (not launched(server) or _stage(server) == BLANK):
                self._servers.delete(name, control)  # there is nothing on its disk
                server = None
            if server is None and disk is None and cdrom is None:
                raise MachineLost  # who asks for none was to go on from what was on its disk
            if server is None or server.status == "BUILD":
                server = self._creation.create(name, spec, build_id, control, log, disk, cdrom, seed)
            self._network.give_floating(server.id, name, control)
            stage = _stage(server)
            begun = stage == INSTALLING and (server.status == "RESCUE" or self._servers.ejected(server))
            if cdrom is not None and stage in (BLANK, INSTALLING) and not begun:
                server = self._insert(server, name, build_id, spec, cdrom, control)
            elif stage != INSTALLING:
                server = self._start(server, name, control)
            return Machine(name, self._servers.state(server), server.id)

    def boot_disk(
        self, name: str, *, control: Control, log: Callable[[str], None], seed: Seed | None = None
    ) -> Machine:
        with self._locked(name, control):
            server = self._servers.one(name)
            if server is None:
                raise Refused(f"there is no machine {name} whose disk could be booted")
            if _stage(server) == INSTALLING:
                if self._servers.state(server) is MachineState.RUNNING:
                    raise Unavailable(f"machine {name} still runs from its CD")
                server = self._eject(server, control)
                self._installed(server, name)
            server = self._start(server, name, control)
            return Machine(name, self._servers.state(server), server.id)

    def stop(self, name: str, control: Control, timeout: float = 120.0) -> None:
        server = self._servers.one(checked(name))
        if server is None or self._servers.state(server) is MachineState.STOPPED:
            return
        if self._servers.state(server) is MachineState.ERROR:
            raise Unavailable(
                f"machine {name} broke: it can't be powered off in order", hint="start it again, or delete it"
            )
        self._look(name, server)  # what it says on its way down is gone with its next boot
        self._servers.lead(
            server,
            "power a server off",
            lambda s: s.status == "SHUTOFF" and task(s) is None,
            _power_off,
            control=control,
            timeout=max(timeout, _STOP),
        )

    def delete(self, name: str) -> None:
        control = Control()
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

    def type(self, name: str, keys: Sequence[str]) -> None:
        raise Refused("nobody can type on the keyboard of a server of Nova", hint="openstack console url show")

    def address(self, name: str) -> Address:
        server = self._servers.seen(checked(name))
        if server is None or self._servers.state(server) is not MachineState.RUNNING:
            raise Unavailable(f"machine {name} does not run")
        return self._network.address(server, name)

    # -- disks ---------------------------------------------------------------------------------------

    def checkpoint(
        self, name: str, key: str, *, parent: str | None, title: str, build_id: str, control: Control
    ) -> Layer:
        """See the protocol. What was installed from a CD runs from its disk afterwards: Nova can't do otherwise."""
        if self._servers.one(name) is None:
            raise Refused(f"there is no machine {name}")
        with self._locked(name, control):
            server = self._servers.one(name)
            if server is None or self._servers.state(server) is MachineState.ERROR:
                raise Unavailable(f"machine {name} broke: what is on its disk can't be relied on")
            installing = _stage(server) == INSTALLING
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
        """See that a server runs from its disk."""
        if server.status == "ACTIVE" and self._servers.state(server) is MachineState.RUNNING:
            return server
        for file in (self._site / name).glob("disk-*"):
            file.unlink(missing_ok=True)
        self._media.remove(name, media.DISK)

        def act(found: Any) -> None:
            if (wake := _WAKE.get(found.status)) is not None:
                wake(found)
            elif found.status == "SHUTOFF":
                found.start()
            else:
                found.reboot("HARD")

        def there(found: Any) -> bool:
            return found.status == "ACTIVE" and power(found) == 1 and task(found) is None

        return self._servers.lead(
            server,
            "start a server",
            there,
            act,
            mend=lambda s: s.reboot("HARD"),
            control=control,
            timeout=self._config.build_timeout,
        )

    def _insert(self, server: Any, name: str, build_id: str, spec: MachineSpec, cdrom: Path, control: Control) -> Any:
        """Boot an empty server from the ISO: Nova's stable device rescue, its own disk beside it."""
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
        """Take the ISO out: the server boots what is on its disk."""
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
        """Hold a server that begins to boot, before what boots changes the disk."""
        return self._servers.lead(
            server,
            "pause a server",
            lambda s: s.status in ("PAUSED", "SHUTOFF") and task(s) is None,
            lambda s: s.pause(),
            control=control,
            timeout=self._config.build_timeout,
        )

    def _installed(self, server: Any, name: str) -> None:
        """The machine runs from its disk from now on: its ISO and the blank disk are needed no more."""
        self._servers.note(server, DISK)
        self._media.remove(name, media.ISO)

    def _snapshot(self, server: Any, name: str, identity: dict[str, str], control: Control) -> Image:
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

    def _console(self, name: str) -> Console:
        return Console(self._site / name / "console.log")

    def _look(self, name: str, server: Any) -> None:
        """Take in what the console says now; a server that says nothing yet has none."""
        if server.status in ("BUILD", "ERROR"):
            return
        self._looked[name] = time.monotonic()
        try:
            text = self._servers.ask_briefly("a console", server.get_console_output)
        except (NotFound, Refused, TimedOut, Unavailable):
            return
        with locked(self._site / f".{name}.console.lock"):
            self._console(name).add(text.encode("utf-8", "replace"))


def _power_off(server: Any) -> None:
    """Ask Nova for what comes next on a server's way down."""
    wake = None if _stage(server) == INSTALLING else _WAKE.get(server.status)  # its rescue is the installer
    wake(server) if wake is not None else server.stop()


def _stage(server: Any) -> str:
    """What a server of ours is at."""
    return str(server.metadata.get(STAGE) or "")
