"""The tiny installer: an ISO laid out like Debian's that installs the tiny disk within seconds.

It follows a preseed (`/preseed.cfg`; late_command, early_command, partman-auto/disk, get_hostname,
exit/poweroff) or a kickstart (`/ks.cfg`; %post with and without --nochroot, poweroff), in the initrd or where
`preseed/file=`, `file=`, `ks=`, `inst.ks=` say. Without answers it stops at a dialog. A fault is set
by the ISO's kind, with `tiny.fault=FAULT` on the kernel's command line, or with
`d-i tiny/fault string FAULT` in the preseed.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from tests.guests import cache, media, tiny
from tests.guests.debs import run

FAULTS = (
    "dialog",  # stops at a dialog that is drawn with newt
    "prompt",  # stops at one of the text frontend
    "panic",  # the kernel panics
    "init",  # its first process ends, and the kernel panics
    "poweroff",  # powers off without having installed
    "reboot",  # reboots at once
    "hang",  # says nothing more and writes nothing
)
_FILES = Path(__file__).parent / "installer_files"


def iso(kind: str = "") -> Path:
    """The ISO that installs, or one with a fault; never write to it."""
    assert kind in ("", *FAULTS)
    return parts() / f"installer{'-' if kind else ''}{kind}.iso"


@functools.cache
def parts() -> Path:
    """The folder with the ISOs, and kernel and initrd.gz as they are on them."""
    media.require_parts()
    tiny.require_programs(*media.PROGRAMS)
    system = tiny.parts()
    code = [_FILES, Path(__file__), Path(media.__file__)]
    return cache.made("installer", cache.digest(code, [system.name]), functools.partial(_make, system))


def _make(system: Path, to: Path) -> None:
    shutil.copy(system / "kernel", to / "kernel")
    _initrd(system, to)
    for kind in ("", *FAULTS):
        tree = to / f"tree{kind}"
        (tree / "tiny").mkdir(parents=True)
        _pack(system / "disk.raw", tree / "tiny/data", tree / "tiny/map")
        if kind:
            (tree / "tiny/fault").write_text(kind + "\n")
        info = 'Debian GNU/Linux 12.0.0 "Bookworm" - Tiny amd64 NETINST of imageflow'
        file = to / f"installer{'-' if kind else ''}{kind}.iso"
        media.iso(file, tree, to / "kernel", to / "initrd.gz", info=info, volume="Debian 12 tiny amd64")
        file.chmod(0o444)
        shutil.rmtree(tree)


def _initrd(system: Path, to: Path) -> None:
    tree = to / "initrd"
    (tree / "bin").mkdir(parents=True)
    (tree / "sbin").symlink_to("bin")
    shutil.copy(system / "root/bin/busybox", tree / "bin/busybox")
    for applet in run(tree / "bin/busybox", "--list").split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    shutil.copytree(system / "modules", tree, dirs_exist_ok=True)
    for name, place in {"init": "init", "in-target": "bin/in-target"}.items():
        shutil.copy(_FILES / name, tree / place)
        (tree / place).chmod(0o755)
    tiny.archive(tree, to / "initrd.gz")
    shutil.rmtree(tree)


def _pack(disk: Path, data: Path, plan: Path) -> None:
    """The parts of a disk that are not zero, and a map: lines of 'place offset count' in MiB.

    Gaps of less than 8 MiB are data too: the journal must be zero on a disk that was used before.
    """
    runs: list[list[int]] = []
    with disk.open("rb") as source, data.open("wb") as out:
        blank = bytes(tiny.MIB)
        pending = 0
        place = 0
        while block := source.read(tiny.MIB):
            if block == blank:
                pending += 1
            else:
                if not runs or pending >= 8:
                    runs.append([place, out.tell() // tiny.MIB, 0])
                else:
                    out.write(blank * pending)
                    runs[-1][2] += pending
                out.write(block.ljust(tiny.MIB, b"\0"))
                runs[-1][2] += 1
                pending = 0
            place += 1
    plan.write_text("".join(f"{at} {offset} {count}\n" for at, offset, count in runs))
