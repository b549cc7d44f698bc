"""What real machines do that get no further, as the flight recorder sees it."""

from __future__ import annotations

import gzip
import shutil
import time
from pathlib import Path

import pytest

from imageflow.flight import Cause, Limits, Trouble
from imageflow.flight.watch import Watch
from tests.guests import ANSWERS, installer, machine, media, tiny

pytestmark = [pytest.mark.machine(seconds=15), pytest.mark.sliced]

LIMITS = Limits(stall=12, dialog=4, start=8, boots=3)
ARGUMENTS = "console=tty0 console=ttyS0,115200 auto=true"


def watched(it: machine.Bare, watch: Watch, seconds: float = 120) -> Trouble | None:
    """Look at a machine until there is trouble or it has powered off."""
    offset = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        over = it.process.poll() is not None
        new = it.console()[offset:]
        offset += len(new)
        if (trouble := watch.see(new, it.written(), time.monotonic())) or over:
            return trouble
        time.sleep(0.2)
    raise AssertionError(f"nothing within {seconds} s: {watch.last_lines(20)}")


def installing(tmp_path: Path, preseed: bytes) -> tuple[str, ...]:
    """The tiny installer's kernel with this preseed, as QEMU's arguments."""
    initrd = tmp_path / "initrd"
    shutil.copy(installer.parts() / "initrd.gz", initrd)
    with initrd.open("ab") as out:
        out.write(gzip.compress(media.newc({"preseed.cfg": preseed})))
    return ("-kernel", str(installer.parts() / "kernel"), "-initrd", str(initrd), "-append", ARGUMENTS)


@pytest.mark.parametrize(
    ("fault", "cause", "says"),
    [
        ("dialog", Cause.DIALOG, "a dialog: [!!] Partition disks / No root file system"),
        ("prompt", Cause.DIALOG, "1: Guided partitioning"),
        ("panic", Cause.PANIC, "sysrq triggered crash"),
        ("init", Cause.PANIC, "Attempted to kill init!"),
        ("hang", Cause.STALL, "Loading additional components"),
    ],
)
def test_an_installer_that_gets_stuck(tmp_path: Path, fault: str, cause: Cause, says: str) -> None:
    extra = installing(tmp_path, (ANSWERS / "preseed.cfg").read_bytes())
    with machine.running(tmp_path / "m", cdrom=installer.iso(fault), extra=extra) as it:
        trouble = watched(it, Watch(LIMITS, installer=True))
    assert trouble is not None
    assert trouble.cause is cause
    assert says in trouble.message, trouble.message


@pytest.mark.parametrize("fault", ["", "poweroff"])
def test_an_installer_that_powers_off(tmp_path: Path, fault: str) -> None:
    preseed = (ANSWERS / "preseed.cfg").read_bytes().rstrip() + b"; echo MARKER > /dev/ttyS0\n"
    watch = Watch(LIMITS, installer=True)
    with machine.running(tmp_path / "m", cdrom=installer.iso(fault), extra=installing(tmp_path, preseed)) as it:
        assert watched(it, watch) is None
    assert watch.said("MARKER") is (fault == "")
    assert ("Installing the base system" in "".join(watch.last_lines(50))) is (fault == "")


@pytest.mark.parametrize(
    ("fault", "cause"),
    [("panic", Cause.PANIC), ("reboot", Cause.BOOT_LOOP), ("emergency", Cause.DIALOG), ("hang", Cause.STALL)],
)
def test_a_disk_that_does_not_come_up(tmp_path: Path, fault: str, cause: Cause) -> None:
    with machine.running(tmp_path / "m", disk=tiny.disk(fault), reboots=True) as it:
        trouble = watched(it, Watch(LIMITS, installer=False))
    assert trouble is not None
    assert trouble.cause is cause, trouble


@pytest.mark.parametrize("uefi", [False, True], ids=["bios", "uefi"])
def test_a_disk_with_nothing_on_it(tmp_path: Path, uefi: bool) -> None:
    """SeaBIOS says it on the screen only: nothing at all comes over the serial console."""
    with machine.running(tmp_path / "m", uefi=uefi) as it:
        trouble = watched(it, Watch(LIMITS, installer=False))
    assert trouble is not None
    assert trouble.cause is Cause.NO_BOOT, trouble
    assert uefi or "printed nothing" in trouble.message
