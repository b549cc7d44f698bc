"""Checks the host before a build starts, so that it does not fail twenty minutes later."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from imageflow.dib.environment import PATH
from imageflow.errors import NoSpace, Refused
from imageflow.host import process

GIB = 1 << 30
_PACKAGES = {
    "sudo": "sudo",
    "qemu-img": "qemu-utils",
    "losetup": "mount",
    "partx": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "fstrim": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "sgdisk": "gdisk",
    "debootstrap": "debootstrap",
    "mksquashfs": "squashfs-tools",
    "gzip": "gzip",
}  # program -> Debian's package
_ALWAYS = ("sudo", "qemu-img", "losetup", "partx", "unshare", "setpriv", "fstrim", "mkfs.ext4")


def refused() -> Refused | None:
    """Why this process can build nothing by the method dib; None when it may."""
    if os.geteuid() == 0:
        return None
    return Refused(
        "diskimage-builder needs root: it mounts file systems and attaches loop devices",
        hint="run imageflow as root, or 'imageflow serve' as a system service; the methods boot and install need no root",
    )


def check_machine(elements: Collection[str], outputs: Collection[str]) -> None:
    """Raise Refused, naming everything that this host lacks for these elements and outputs."""
    if (no_root := refused()) is not None:
        raise no_root
    wanted = [*_ALWAYS]
    if "debootstrap" in elements:
        wanted.append("debootstrap")
    if any(element.startswith("block-device-efi") for element in elements):
        wanted += ["mkfs.vfat", "sgdisk"]
    if "block-device-gpt" in elements:
        wanted.append("sgdisk")
    if "squashfs" in outputs:
        wanted.append("mksquashfs")
    missing = [program for program in wanted if shutil.which(program, path=PATH) is None]
    if missing:
        packages = " ".join(sorted({_PACKAGES[program] for program in missing}))
        raise Refused(
            f"missing on this machine: {', '.join(missing)}", hint=f"install them: apt-get install {packages}"
        )
    if not Path("/dev/loop-control").exists():
        raise Refused("there are no loop devices here", hint="load the kernel's module: modprobe loop")
    try:
        process.output(["sudo", "-n", "true"], env={"PATH": PATH})
    except Refused as error:
        raise Refused(
            "sudo does not work for root, and diskimage-builder uses it",
            hint=f"see /etc/sudoers; it says: {error.hint}",
        ) from error


def check_space(folder: Path, need: int, why: str) -> None:
    """Raise NoSpace unless `need` bytes are free on `folder`'s file system."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise NoSpace(
            f"{folder} has {free / GIB:.1f} GiB free, the build needs {need / GIB:.1f} GiB ({why})",
            hint="free some space there, delete old images, or change state_dir or [dib] min_free; then resume the build",
        )


def available_memory() -> int:
    """Bytes of memory available without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def memory_for(size: int, available: int) -> int:
    """Bytes of memory that a build of about `size` bytes may use for its files; 0: none.

    diskimage-builder's rule: at least twice of what is needed.
    """
    return available // 2 if available >= 2 * size else 0
