"""How a server comes to be: its image, its flavor, and asking Nova until there is exactly one that runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageflow.compute import MachineSpec, Seed, Source
from imageflow.compute.nova import flavors, layers
from imageflow.compute.nova.keypairs import Keypairs
from imageflow.compute.nova.media import Media
from imageflow.compute.nova.network import Network
from imageflow.compute.nova.servers import BLANK, DISK, MACHINE, STAGE, Servers, fault, task
from imageflow.compute.qemu.disks import check_base
from imageflow.config.clouds import NovaConfig
from imageflow.control import Control
from imageflow.errors import Refused, Unavailable
from imageflow.openstack import Cloud
from imageflow.openstack.image import BUILD, Image
from imageflow.openstack.images import Images
from imageflow.openstack.trouble import OverQuota

_STARTS = 3  # times that Nova may fail to start a server: another host, or a minute later, may do
_WAIT = 10.0  # seconds between two looks whether the quota has room


@dataclass(frozen=True, slots=True)
class Creation:
    """Makes servers in one project of a cloud."""

    config: NovaConfig
    cloud: Cloud
    images: Images
    servers: Servers
    network: Network
    keypairs: Keypairs
    media: Media

    def check(self, spec: MachineSpec) -> None:
        """Raise Refused when there can't be such a server."""
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
        """Make the server of a machine, or go on with the one that is being made; -> it, when it runs."""
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
        for start in range(1, _STARTS + 1):
            server = self._post(name, image, flavor, given, control, log)
            try:
                found = self._await_active(server, control)
            except Refused as error:
                self.servers.delete(name, control)
                if start == _STARTS:
                    raise
                log(f"{error.message}: once more")
                control.wait(2.0**start)
                continue
            self.servers.changed(name)
            self.servers.keep_only(found, control)
            log(f"machine {name} runs as server {found.id}: flavor {flavor.name}")
            return found
        raise AssertionError

    def _image(self, name: str, spec: MachineSpec, build_id: str, control: Control, disk: Source | None) -> Image:
        """What the server's disk starts as."""
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
        self, name: str, image: Image, flavor: Any, given: dict[str, Any], control: Control, log: Callable[[str], None]
    ) -> Any:
        """Ask for the server until there is one: whether a lost answer was a yes, the next look says."""
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
                if not said:
                    log(f"machine {name} ({flavor.name}) waits: {error.message}")
                    said = True
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
        """Wait for a new server; Refused with Nova's words when it can't be started."""
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


def _gib(image: Image) -> int:
    """GiB that a disk needs at least to hold an image."""
    virtual = int(image.data.get("virtual_size") or image.data.get("size") or 0)
    return max(int(image.data.get("min_disk") or 0), math.ceil(virtual / 2**30))
