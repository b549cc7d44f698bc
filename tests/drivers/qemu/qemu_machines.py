"""Places for machines of the driver qemu, with guests or nothing to boot, and the folder and process of one."""

from __future__ import annotations

import psutil

from imageflow.compute.qemu.folder import Folder
from tests.drivers.compute_site import NAME, Site


def folder_of(place: Site, name: str = NAME) -> Folder:
    return Folder(place.config.machines_dir, name)


def process_of(place: Site, name: str = NAME) -> psutil.Process:
    record = folder_of(place, name).read()
    assert record is not None and record.process is not None
    return psutil.Process(record.process.pid)
