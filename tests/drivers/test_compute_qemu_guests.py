"""Real guests of the driver qemu: their console, screen, layers, firmware, panics, and a disk that is full."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from imageflow.compute import MachineState, Source
from imageflow.compute.qemu import firmware, screen
from imageflow.errors import NoSpace, Refused
from tests.drivers.compute_site import BUILD, NAME, SPEC, QemuSite, Site, key, site, until
from tests.drivers.machine import need
from tests.drivers.qemu_machines import *  # noqa: F403 - its fixtures
from tests.guests import tiny
from tests.services import require

READY = b"GUEST-READY"


def test_a_guest_from_boot_to_its_layers(place: QemuSite) -> None:
    """Booted once: console, screen, keys, a checkpoint while it writes, the power button; then from the layer."""
    compute = place.compute
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        assert shell("echo -n in; hostname") == "inimageflow"
        console = compute.console(NAME)
        until(lambda: READY in compute.console(NAME))
        assert b"SeaBIOS" in console or b"Booting from Hard Disk" in console
        offset = len(compute.console(NAME))
        shell("echo later > /dev/ttyS0")
        until(lambda: b"later" in compute.console(NAME, offset))
        picture = compute.screenshot(NAME)
        assert picture is not None and size_of(picture)[0] >= 640
        with pytest.raises(Refused):
            compute.type(NAME, ["no-such-key"])
        before = compute.activity(NAME)
        shell(
            "(while [ ! -e /root/enough ]; do cat /bin/busybox > /root/load; echo >> /root/load; sync; done) > /dev/null 2>&1 &"
        )
        shell("echo kept > /root/kept; sync")
        layer = place.checkpoint("c", parent=key("b"))
        shell("echo lost > /root/lost; sync")
        assert place.checkpoint("c", parent=key("b")) == layer
        second = place.checkpoint("d", parent=key("c"))
        after = compute.activity(NAME)
        assert after.console > before.console or after.written is not None
        assert (after.written or 0) > (before.written or 0)
        shell("touch /root/enough; cat /root/kept /root/lost")
    verify = f"{BUILD}-verify"
    place.ensure(verify, disk=layer.source, seed=place.seed("i-2"))
    with place.inside(verify) as shell:
        assert shell("cat /root/kept; ls /root/lost 2>/dev/null || true") == "kept"
    assert compute.address(verify) != compute.address(NAME)
    compute.type(verify, ["shift-a"])  # the tiny guest takes any key for its power button
    until(lambda: compute.state(verify) is MachineState.STOPPED)
    started = len(compute.console(NAME))
    compute.stop(NAME, place.control(), timeout=30.0)
    assert compute.state(NAME) is MachineState.STOPPED
    assert b"Power down" in compute.console(NAME, started)
    compute.delete(verify)
    assert place.running() == 0
    for made in (layer, second):
        assert subprocess.run(["qemu-img", "check", "-q", made.source.path], check=False).returncode == 0


def test_a_killed_qemu_starts_again_where_it_was(place: QemuSite) -> None:
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        shell("echo first > /root/first; sync")
        layer = place.checkpoint("c")
        shell("echo second > /root/second; sync")
    offset = len(place.compute.console(NAME))
    place.crash()
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        assert shell("cat /root/first /root/second") == "first\nsecond"
    assert b"Linux version" in place.compute.console(NAME, offset)
    assert place.checkpoint("c") == layer


def test_uefi(place: QemuSite) -> None:
    require("UEFI firmware", None if has_uefi(place) else "no OVMF")
    place.ensure(spec=dataclasses.replace(SPEC, firmware="uefi", memory=384), seed=place.seed())
    with place.inside() as shell:
        assert shell("[ -d /sys/firmware/efi ] && echo efi") == "efi"


def test_a_panic_is_an_error_and_a_reboot_may_be_an_end(place: QemuSite) -> None:
    """Of a guest without a driver for pvpanic, only the console tells; a machine that may not reboot stops there."""
    spec = dataclasses.replace(SPEC, reboots=False)
    disk = Source(str(tiny.disk("panic")))
    place.ensure(spec=spec, disk=disk)
    until(lambda: place.compute.state(NAME) is not MachineState.RUNNING)
    assert b"Kernel panic" in place.compute.console(NAME)
    assert place.compute.state(NAME) in (MachineState.STOPPED, MachineState.ERROR)


def test_nothing_to_boot_is_said_on_the_console(bare: Site) -> None:
    bare.ensure()
    until(lambda: b"No bootable device" in bare.compute.console(NAME))
    assert bare.compute.state(NAME) is MachineState.RUNNING


def has_uefi(place: Site) -> bool:
    try:
        firmware.find(place.config.qemu)
    except Refused:
        return False
    return True


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose check sums are right."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, kinds = 8, []
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data = png[at + 4 : at + 8 + length]
        assert zlib.crc32(data) == struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0]
        kinds.append(kind)
        at += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("data", [b"", b"P5 1 1 255\n.", b"P6 2 2 255\n" + bytes(11), b"P6 1 1 65535\n......"])
def test_only_a_whole_picture_is_one(data: bytes) -> None:
    with pytest.raises(ValueError, match="PPM"):
        screen.png(data)
    assert size_of(screen.png(b"P6\n3 2\n255\n" + bytes(range(18)))) == (3, 2)


@pytest.mark.serial
def test_a_full_disk_holds_a_machine_up_and_loses_nothing(tmp_path: Path) -> None:
    need("mount", root=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tests", str(tmp_path)], check=True)
    try:
        with site("qemu", tmp_path, guests=True) as place:
            assert isinstance(place, QemuSite)
            with pytest.raises(NoSpace):
                place.ensure(seed=place.seed())
            subprocess.run(["mount", "-o", "remount,size=340m", str(tmp_path)], check=True)
            machine = place.ensure(seed=place.seed())
            subprocess.run(["mount", "-o", "remount,size=200m", str(tmp_path)], check=True)
            write = "dd if=/dev/urandom of=/root/large bs=1M count=200; sync; echo done > /root/ended"
            with place.inside() as shell:
                shell(f"echo kept > /root/kept; sync; ({write}) > /dev/null 2>&1 &")
                until(lambda: place.compute.state(NAME) is MachineState.ERROR)
                with pytest.raises(NoSpace):
                    place.ensure()
                subprocess.run(["mount", "-o", "remount,size=900m", str(tmp_path)], check=True)
                assert place.ensure() == machine
                until(lambda: shell("cat /root/kept /root/ended 2>/dev/null || true") == "kept\ndone")
            assert place.compute.state(NAME) is MachineState.RUNNING
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
