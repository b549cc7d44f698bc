"""Remastered ISOs boot unattended, wherever their boot entries are, by each firmware that they have."""

from __future__ import annotations

from pathlib import Path

import pytest

from imageflow.errors import Refused
from imageflow.iso import Answers
from imageflow.iso.media import inspect
from imageflow.iso.method import require
from tests.drivers import vendor_iso
from tests.drivers.iso.remastered_iso import made, read
from tests.drivers.vendor_iso import Vendor

pytestmark = [pytest.mark.machine(seconds=30), pytest.mark.sliced]


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("bus", ["cd", "disk"])
@pytest.mark.timeout(240)
def test_it_boots_unattended(debian: Vendor, tmp_path: Path, firmware: str, bus: str) -> None:
    said = vendor_iso.boot(made(debian, tmp_path / "it.iso", arguments="theirs=1"), firmware, bus, 200)
    assert "GUEST answers /preseed.cfg: d-i a/b string c" in said
    (line,) = [line for line in said.splitlines() if "GUEST cmdline" in line]
    assert "auto=true priority=critical" in line
    assert "theirs=1 --- console=ttyS0,115200" in line
    assert "vga" not in line and "quiet" not in line


@pytest.mark.timeout(240)
def test_it_boots_where_the_menu_is_inside_the_efi_image(fedora: Vendor, tmp_path: Path) -> None:
    it = made(fedora, tmp_path / "it.iso", Answers.KICKSTART, b"rootpw x\n")
    said = vendor_iso.boot(it, "uefi", "cd", 200)
    label = "Rocky-9-4-x86_64-dvd"
    assert f"inst.stage2=hd:LABEL={label} inst.ks=hd:LABEL={label}:/imageflow/ks.cfg" in said
    assert "rd.live.check" not in said
    assert read(it, "/imageflow/ks.cfg") == b"rootpw x\n"


@pytest.mark.parametrize(("firmware", "bus"), [("bios", "disk"), ("uefi", "cd")])
@pytest.mark.timeout(240)
def test_it_boots_where_the_efi_partition_is_behind_the_volume(
    ubuntu: Vendor, tmp_path: Path, firmware: str, bus: str
) -> None:
    it = made(ubuntu, tmp_path / "it.iso", Answers.AUTOINSTALL, b"#cloud-config\n")
    said = vendor_iso.boot(it, firmware, bus, 200)
    assert " autoinstall ds=nocloud;s=/cdrom/imageflow/ fsck.mode=skip --- console=ttyS0,115200" in said
    assert read(it, "/imageflow/user-data") == b"#cloud-config\n"
    assert read(it, "/imageflow/meta-data")
    assert read(it, "/imageflow/vendor-data") == b""


def test_firmware_that_it_can_not_boot_with(small: Vendor, debian: Vendor) -> None:
    require(inspect(debian.iso), Answers.PRESEED, "uefi")
    require(inspect(small.iso), Answers.PRESEED, "bios")
    with pytest.raises(Refused, match="does not boot with it"):
        require(inspect(small.iso), Answers.PRESEED, "uefi")
