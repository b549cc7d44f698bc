"""Real guests of the driver qemu: their console, screen, layers, firmware, panics, and a disk that is full."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from imageflow.compute import MachineState, Source
from imageflow.compute.qemu import firmware, parking
from imageflow.compute.qemu.driver import QemuCompute
from imageflow.compute.qemu.folder import Folder
from imageflow.compute.qemu.runs import Runs
from imageflow.compute.qemu.start import start
from imageflow.errors import Cancelled, NoSpace, Refused, Unavailable
from tests.drivers.compute_site import BUILD, NAME, SPEC, QemuSite, Site, key, site, until
from tests.drivers.machine import need
from tests.drivers.qemu.test_compute_qemu_screen import size_of
from tests.guests import tiny
from tests.servers.services import require

pytestmark = pytest.mark.machine(seconds=15)

READY = b"GUEST-READY"


def test_a_guest_goes_on_where_it_was_put_away(place: QemuSite) -> None:
    """Its memory is kept, and its processes; its disk still grows in layers; nothing of the seed stays."""
    compute = place.compute
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        shell("echo kept > /run/in-memory; (while sleep 0.2; do date +%s > /run/ticks; done) > /dev/null 2>&1 &")
        assert not compute.park(NAME, place.control(), lambda: True)  # a user is logged in
        assert shell("cat /run/in-memory") == "kept"
    until(lambda: compute.park(NAME, place.control(), lambda: True))
    folder = place.config.machines_dir / NAME
    assert (folder / "memory").stat().st_mode & 0o777 == 0o600
    place.ensure(disk=None)
    assert not (folder / "memory").exists()
    assert not [entry for entry in folder.iterdir() if "seed" in entry.name or "credential" in entry.name]
    with place.inside() as shell:
        assert shell("cat /run/in-memory") == "kept"
        before = shell("cat /run/ticks")
        until(lambda: shell("cat /run/ticks") != before)
        shell("echo on disk > /root/kept; sync")
        layer = place.checkpoint("c", parent=key("b"))
    verify = f"{BUILD}-verify"
    place.ensure(verify, disk=layer.source, seed=place.seed("i-2"))
    with place.inside(verify) as shell:
        assert shell("cat /root/kept") == "on disk"


def test_a_memory_that_can_not_be_loaded_is_not_tried_for_ever(place: QemuSite) -> None:
    place.ensure(seed=place.seed())
    assert place.compute.park(NAME, place.control(), lambda: True)
    memory = place.config.machines_dir / NAME / "memory"
    memory.write_bytes(b"not a memory")
    with pytest.raises(Unavailable, match="can't go on from its saved memory"):
        place.ensure(disk=None)
    assert place.compute.state(NAME) is MachineState.ERROR and place.running() == 0
    place.ensure(seed=place.seed())
    assert place.compute.state(NAME) is MachineState.RUNNING


def test_a_machine_that_is_needed_meanwhile_is_not_put_away(place: QemuSite) -> None:
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        shell("echo kept > /run/in-memory")
    stopped = place.control()
    with stopped.watched(lambda: stopped.stop(Cancelled()), every=0.0), pytest.raises(Cancelled):
        until(lambda: place.compute.park(NAME, stopped, lambda: True))
    assert place.compute.state(NAME) is MachineState.RUNNING
    assert [entry for entry in (place.config.machines_dir / NAME).iterdir() if entry.name.startswith("memory")] == []
    with place.inside() as shell:
        assert shell("cat /run/in-memory") == "kept"
    until(lambda: place.compute.park(NAME, place.control(), lambda: True))
    place.ensure(disk=None)
    with place.inside() as shell:
        assert shell("cat /run/in-memory") == "kept"


def test_a_host_without_memory_keeps_what_was_put_away(place: QemuSite) -> None:
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        shell("echo kept > /run/in-memory")
    until(lambda: place.compute.park(NAME, place.control(), lambda: True))
    emulator = place.folder / "emulator"
    emulator.write_text("#!/bin/sh\necho 'cannot set up guest memory: Cannot allocate memory' >&2; exit 1\n")
    emulator.chmod(0o755)
    full = dataclasses.replace(place.config, qemu=dataclasses.replace(place.config.qemu, emulator=str(emulator)))
    with pytest.raises(Unavailable, match="can't be brought back now"):
        QemuCompute(full).ensure(NAME, SPEC, build_id=BUILD, control=place.control(), log=place.log.append)
    assert place.compute.state(NAME) is MachineState.PARKED
    place.ensure(disk=None)
    with place.inside() as shell:
        assert shell("cat /run/in-memory") == "kept"


@pytest.mark.sliced(of=4)
@pytest.mark.parametrize("when", ["stopped", "written", "recorded", "loaded"])
def test_a_worker_that_dies_while_it_puts_a_machine_away(place: QemuSite, when: str) -> None:
    """At each instant the machine goes on from the memory that fits its disk."""
    place.ensure(seed=place.seed())
    with place.inside() as shell:
        shell("echo kept > /run/in-memory")
    machine = Folder(place.config.machines_dir, NAME)
    runs = Runs(place.config.machines_dir)
    if when == "loaded":
        until(lambda: place.compute.park(NAME, place.control(), lambda: True))
        record = machine.read()
        assert record is not None
        start(machine, record, record.accelerator, None, place.config.qemu, place.compute._network)
    else:
        with runs.monitor(machine) as monitor:
            monitor.call("stop")
        if when != "stopped":
            with machine.memory.open("wb") as file:
                parking._save(runs, machine, file.fileno(), place.control())
        if when == "recorded":
            record = machine.read()
            assert record is not None
            machine.write(dataclasses.replace(record, parked=True))
    assert place.compute.state(NAME) is (
        MachineState.PARKED if when in ("recorded", "loaded") else MachineState.RUNNING
    )
    place.ensure(disk=None)
    with place.inside() as shell:
        assert shell("cat /run/in-memory") == "kept"
    assert machine.read().parked is False  # type: ignore[union-attr]
    until(lambda: place.compute.park(NAME, place.control(), lambda: True))
    place.ensure(disk=None)
    with place.inside() as shell:
        assert shell("cat /run/in-memory") == "kept"


def test_a_guest_from_boot_to_its_layers(place: QemuSite) -> None:
    """Booted once: console, screen, a checkpoint while it writes, the power button; then from the layer."""
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
        shell("(sleep 0.5; poweroff -f) > /dev/null 2>&1 &")
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
