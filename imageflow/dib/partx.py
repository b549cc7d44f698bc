"""A block-device plugin for diskimage-builder: partitions without device-mapper.

diskimage-builder makes the partition table itself and then needs kpartx, which needs device-mapper.
partx(8) asks the kernel for /dev/loopNpM instead, which works wherever loop devices do. Written
`partx_partitioning:` where a configuration says `partitioning:`.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from diskimage_builder.block_device.exception import BlockDeviceSetupException
from diskimage_builder.block_device.level1.partitioning import Partitioning
from diskimage_builder.block_device.utils import exec_sudo

_PATIENCE = 10.0  # seconds within which a device node must appear


class PartxPartitioning(Partitioning):  # type: ignore[misc]
    """The stock `partitioning`, with partx in place of kpartx."""

    def create(self) -> None:
        """Make the partition table and the devices; called once for each partition."""
        self.number_of_partitions += 1
        if self.number_of_partitions > 1:
            return
        base: dict[str, Any] = self.state["blockdev"][self.base]
        self.image_path, self.device_path = base["image"], base["device"]
        self.disk_size = self._size_of_block_dev(self.image_path)
        if self.label == "mbr":
            self._create_mbr()
        else:
            self._create_gpt()
        for partition in self.partitions:
            # The parent class used kpartx's names, and would remove the devices through device-mapper.
            device = self.state["blockdev"][partition.get_name()]
            device["device"] = "/dev/" + os.path.basename(device["device"])
            partition.rollbacks.clear()
        exec_sudo(["sync"])
        exec_sudo(["partx", "-a", self.device_path])
        self.partitions[0].add_rollback(_delete, self.device_path)
        for partition in self.partitions:
            _await_node(self.state["blockdev"][partition.get_name()]["device"])

    def umount(self) -> None:
        """Remove the devices; called once for each partition."""
        self.number_of_partitions -= 1
        if self.number_of_partitions == 0:
            exec_sudo(["partx", "-d", self.state["blockdev"][self.base]["device"]])


def _delete(device: str) -> None:
    exec_sudo(["partx", "-d", device])


def _await_node(path: str) -> None:
    """Wait for the node; in a container without udev or devtmpfs, make it."""
    number = Path("/sys/class/block") / Path(path).name / "dev"
    deadline = time.monotonic() + _PATIENCE
    while not os.path.exists(path):
        if number.exists() and time.monotonic() > deadline - _PATIENCE / 2:
            major, minor = number.read_text().strip().split(":")
            exec_sudo(["mknod", path, "b", major, minor])
        elif time.monotonic() > deadline:
            raise BlockDeviceSetupException(f"{path} did not appear")
        time.sleep(0.02)
