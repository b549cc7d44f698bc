"""Files in FAT, as mtools wrote them: where the boot entries of EFI are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imageflow.iso.fat import Fat
from imageflow.iso.volume import VolumeReader
from tests.drivers import vendor_iso
from tests.drivers.machine import need


@pytest.mark.parametrize("bits", ["12", "16", "32"])
def test_files_in_fat(bits: str, tmp_path: Path) -> None:
    need("mkfs.vfat", "mcopy", "mmd")
    image = tmp_path / "fat"
    sizes = {"12": 2 << 20, "16": 24 << 20, "32": 80 << 20}
    with image.open("wb") as file:
        file.truncate(sizes[bits])
    vendor_iso.run("mkfs.vfat", "-F", bits, "-s", "1", image)
    (tmp_path / "f").write_bytes(os.urandom(70_000))
    vendor_iso.run("mmd", "-i", image, "::/EFI", "::/EFI/BOOT")
    vendor_iso.run("mcopy", "-i", image, tmp_path / "f", "::/EFI/BOOT/grub.cfg")
    with image.open("rb") as file:
        (found,) = Fat(VolumeReader(file, sizes[bits]), 0).files()
        assert found.path == "/EFI/BOOT/GRUB.CFG"
        assert found.read(VolumeReader(file, sizes[bits])) == (tmp_path / "f").read_bytes()
