"""Creates a server: its image, its flavor, and requests to Nova until exactly one runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imageflow.background.backoff import Backoff
from imageflow.compute import MachineSpec, Seed, Source
from imageflow.compute.bases import check_base
from imageflow.compute.capacity import Need, Queue, no_room
from imageflow.compute.nova import flavors, layers
from imageflow.compute.nova.keypairs import Keypairs
from imageflow.compute.nova.media import MachineImages
from imageflow.compute.nova.network import Network
from imageflow.compute.nova.servers import BLANK, DISK, MACHINE, STAGE, Servers, fault, task
from imageflow.config.clouds import NovaConfig
from imageflow.errors import Refused, Unavailable
from imageflow.host.control import Control
from imageflow.openstack import Cloud
from imageflow.openstack.cloud_errors import OverQuota
from imageflow.openstack.image import BUILD, GlanceImage
from imageflow.openstack.images import Images

_STARTS = 3  # times that Nova may fail to start a server: another host or a later attempt may succeed
_PAUSE = (2.0, 4.0)  # seconds until the next attempt: the first time, and at most
_WAIT = 10.0  # seconds between two attempts while the quota is full
_ANY = Need(0, 0)  # the quota is the cloud's to count


@dataclass(frozen=True, slots=True)
class Creation:
    """Makes servers in one project of a cloud."""

    config: NovaConfig
    cloud: Cloud
    images: Images
    servers: Servers
    network: Network
    keypairs: Keypairs
    media: MachineImages
    line: Queue  # of the machines that wait for the quota
    _full: dict[str, tuple[float, str]] = field(
        default_factory=dict
    )  # machine -> when the quota was full, and the words

    def room(self, name: str) -> str | None:
        """Why a machine should not be tried now, None when it may: only a request shows whether the quota has room."""
        if (why := self.line.look(name, _ANY)) is not None:
            return why
        when, said = self._full.get(name, (-math.inf, ""))
        return said if time.monotonic() - when < _WAIT else None

    def check(self, spec: MachineSpec) -> None:
        """Raise Refused when such a server is impossible."""
        if spec.vcpus < 1 or spec.memory < 32 or (spec.disk is not None and spec.disk < 1):
            raise Refused(f"there is no machine of {spec.vcpus} vcpus, {spec.memory} MiB and {spec.disk} GiB")
        if spec.firmware not in ("bios", "uefi"):
            raise Refused(f"there is no firmware {spec.firmware!r}", hint="bios or uefi")
        self._flavor(spec, spec.disk or 1)
        self.network.id()

    def create(
        self,
        name: str,
        spec: MachineSpec,
        build_id: str,
        control: Control,
        log: Callable[[str], None],
        disk: Source | None,
        cdrom: Path | None,
        seed: Seed | None,
    ) -> Any:
        """Make the server of a machine, or continue with the one being made; -> the running server."""
        self.check(spec)
        image = self._image(name, spec, build_id, control, disk)
        flavor = self._flavor(spec, max(spec.disk or 1, _gib(image)))
        if spec.disk is not None and flavor.disk > spec.disk:
            log(f"flavor {flavor.name}: its disk has {flavor.disk} GiB, the recipe asks for {spec.disk}")
        given: dict[str, Any] = {
            "nics": [{"net-id": self.network.id()}],
            "config_drive": True,
            "meta": {MACHINE: name, BUILD: build_id, STAGE: BLANK if cdrom is not None else DISK},
        }
        if seed is not None:
            given["userdata"] = seed.user_data
            given["key_name"] = self.keypairs.make(name, seed.public_key) if seed.public_key else None
        if self.config.availability_zone:
            given["availability_zone"] = self.config.availability_zone
        if self.config.security_groups:
            given["security_groups"] = list(self.config.security_groups)
        backoff = Backoff(*_PAUSE)
        for start in range(1, _STARTS + 1):
            with self.line.turn(name, _ANY, control, log):
                server = self._post(name, image, flavor, given, control, log)
            try:
                found = self._await_active(server, control)
            except Refused as error:
                self.servers.delete(name, control)
                if start == _STARTS:
                    raise
                log(f"{error.message}: trying again")
                control.wait(backoff.next())
                continue
            self.servers.changed(name)
            self.servers.keep_only(found, control)
            log(f"machine {name} runs as server {found.id}: flavor {flavor.name}")
            return found
        raise AssertionError

    def _image(self, name: str, spec: MachineSpec, build_id: str, control: Control, disk: Source | None) -> GlanceImage:
        """The image that the server's disk starts from."""
        if disk is None:
            return self.media.blank(name, build_id, spec, control)
        if disk.layer is None:
            check_base(Path(disk.path), disk.format)
            return self.media.source(name, build_id, spec, Path(disk.path), disk.format, control)
        image = self.images.get(disk.path)
        if image is None:
            raise Refused(f"image {disk.path} of layer {disk.layer[:12]} is gone")
        if image.says("owner") == self.cloud.project:
            change, drop = layers.firmware(image, spec)
            if change or drop:
                image = self.images.update(image.id, change, remove=drop)
        return image

    def _post(
        self,
        name: str,
        image: GlanceImage,
        flavor: Any,
        given: dict[str, Any],
        control: Control,
        log: Callable[[str], None],
    ) -> Any:
        """Request the server until it exists; after a lost answer, the next look shows whether it does."""
        end = time.monotonic() + max(self.cloud.config.patience, self.config.build_timeout)
        said = False

        def create() -> Any:
            return self.cloud.nova.servers.create(name, image.id, flavor.id, **given)

        while (server := self.servers.one(name)) is None:
            control.check()
            try:
                self.servers.ask_once("create a server", create)
            except OverQuota as error:
                if not any(server.metadata[MACHINE] != name for server in self.servers.all()):
                    raise
                line = f"machine {name} ({flavor.name}) waits: {error.message}"
                if not said:
                    log(line)
                    said = True
                if control.yields:
                    self._full[name] = time.monotonic(), error.message
                    raise no_room(name, line) from error
                with control.not_counted():
                    control.wait(_WAIT)
                end = time.monotonic() + self.cloud.config.patience
            except Unavailable as error:
                if time.monotonic() > end:
                    raise
                log(f"{error.message}: trying again")
                control.wait(self.config.poll)
        return server

    def _await_active(self, server: Any, control: Control) -> Any:
        """Wait for a new server; raises Refused with Nova's message when it can't be started."""
        end = time.monotonic() + self.config.build_timeout
        while True:
            control.check()
            found = self.servers.get(server.id)
            if found is None:
                raise Refused(f"the server of {server.name} is gone")
            if found.status == "ERROR":
                raise Refused(f"Nova can't start {server.name}: {fault(found)}", hint="see 'openstack server show'")
            if found.status in ("ACTIVE", "SHUTOFF") and task(found) is None:
                return found
            if time.monotonic() > end:
                raise Refused(
                    f"Nova did not start {server.name} within {self.config.build_timeout:.0f} seconds:"
                    f" it is {found.status}",
                    hint="see [nova] build_timeout, and 'openstack server show'",
                )
            self.servers.pause(server.id, control)

    def _flavor(self, spec: MachineSpec, disk: int) -> Any:
        listed = self.servers.ask("its flavors", lambda: list(self.cloud.nova.flavors.list()))
        return flavors.choose(listed, spec, disk, self.config.flavor)


def _gib(image: GlanceImage) -> int:
    """The least GiB of a disk that holds an image."""
    virtual = int(image.data.get("virtual_size") or image.data.get("size") or 0)
    return max(int(image.data.get("min_disk") or 0), math.ceil(virtual / 2**30))
