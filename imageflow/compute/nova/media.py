"""The images that one machine needs, in its cloud's Glance: they are removed with the machine.

A blank disk, the installer's ISO, a disk from a file on this host, and the snapshot of its finished disk.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from imageflow.compute import MachineSpec
from imageflow.compute.nova.servers import MACHINE
from imageflow.host import process
from imageflow.host.control import Control
from imageflow.openstack import uploads
from imageflow.openstack.image import BUILD, PREFIX, GlanceImage
from imageflow.openstack.images import Images

PURPOSE = f"{PREFIX}purpose"
BLANK, ISO, SOURCE, DISK = "blank", "iso", "source", "disk"
UEFI = {"hw_firmware_type": "uefi", "hw_machine_type": "q35"}


class MachineImages:
    """The images of machines."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def blank(self, name: str, build_id: str, spec: MachineSpec, control: Control) -> GlanceImage:
        """An empty disk of `spec.disk` GiB, without os_shutdown_timeout: the installed system would inherit it."""
        assert spec.disk is not None
        with tempfile.TemporaryDirectory(prefix="imageflow-") as folder:
            file = Path(folder) / "blank.qcow2"
            process.run(["qemu-img", "create", "-q", "-f", "qcow2", str(file), f"{spec.disk}G"], control=control)
            about = {"min_disk": spec.disk, **firmware(spec)}
            return self._upload(name, build_id, BLANK, file, "qcow2", about, control)

    def iso(self, name: str, build_id: str, spec: MachineSpec, file: Path, control: Control) -> GlanceImage:
        """An ISO that a stable device rescue boots as a CD: IDE on the old machine type, which every installer knows."""
        bus = "sata" if spec.firmware == "uefi" else "ide"  # q35 has no IDE
        about = {"hw_rescue_device": "cdrom", "hw_rescue_bus": bus}
        return self._upload(name, build_id, ISO, file, "iso", about, control)

    def source(
        self, name: str, build_id: str, spec: MachineSpec, file: Path, format: str, control: Control
    ) -> GlanceImage:
        """A disk from a file on this host."""
        return self._upload(name, build_id, SOURCE, file, format, firmware(spec), control)

    def _upload(
        self,
        name: str,
        build_id: str,
        purpose: str,
        file: Path,
        format: str,
        about: Mapping[str, object],
        control: Control,
    ) -> GlanceImage:
        return uploads.upload(
            self._images,
            file,
            name=f"{name}-{purpose}",
            disk_format=format,
            identity={MACHINE: name, PURPOSE: purpose},
            about={BUILD: build_id, "visibility": "private", **about},
            control=control,
        )

    def of(self, name: str, *purposes: str) -> list[GlanceImage]:
        """A machine's images in any state; only those for these purposes, if given."""
        found = self._images.find({MACHINE: name}, snapshots=True)
        return [image for image in found if ours(image) and (not purposes or image.says(PURPOSE) in purposes)]

    def remove(self, name: str, *purposes: str) -> None:
        """Remove them; absent is fine."""
        for image in self.of(name, *purposes):
            self._images.remove(image.id)

    def machines(self) -> set[str]:
        """Names of the machines that have images here."""
        return {image.says(MACHINE) for image in self._images.find({}, snapshots=True) if ours(image)}


def ours(image: GlanceImage) -> bool:
    """Whether we made a machine's image: a user's snapshot of its server has the same properties."""
    return image.says(MACHINE) != "" and image.name == f"{image.says(MACHINE)}-{image.says(PURPOSE)}"


def firmware(spec: MachineSpec) -> dict[str, str]:
    """Image properties that make a server boot with this firmware."""
    return dict(UEFI) if spec.firmware == "uefi" else {}
