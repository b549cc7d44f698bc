"""A machine's disks: made with qemu-img, saved by a hard link, checked before they are trusted."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from imageflow.compute import MachineSpec, Source, qcow2
from imageflow.compute.bases import SECTOR, check_base
from imageflow.compute.files import check_space, trouble
from imageflow.compute.qemu import account
from imageflow.compute.qemu.folder import Folder
from imageflow.errors import CommandFailed, Corrupt, NotFound, Refused
from imageflow.host import process

_GIB = 1 << 30
_ROOM = 256 << 20  # bytes that a new machine needs at least


def need_programs(emulator: str) -> None:
    """Raise Refused when QEMU is not installed."""
    for program, package in ((emulator, "qemu-system-x86"), ("qemu-img", "qemu-utils or qemu-img")):
        if shutil.which(program) is None:
            raise Refused(f"there is no {program} on this machine", hint=f"install {package}, or see [qemu] emulator")


def check_whole(disk: Path) -> None:
    """Raise Corrupt when a crash of the host has damaged a disk."""
    try:
        process.output(["qemu-img", "check", "-q", "-f", "qcow2", "--", str(disk)], timeout=600.0)
    except CommandFailed as error:
        if "exit code 3" in error.message:
            return  # leaked clusters: only waste space
        raise Corrupt(
            f"{disk} was damaged when the host went down", hint="abort the build and create it again"
        ) from error


def create_first(machine: Folder, spec: MachineSpec, source: Source | None, layers: Path) -> None:
    """Make the first disk of a machine."""
    check_space(machine.path, _ROOM, f"machine {machine.name}")
    size = (spec.disk or 0) * _GIB
    if source is None:
        if not size:
            raise Refused("an empty disk needs a size", hint="say machine: {disk: GIB}")
        _create(machine, 0, size)
        return
    path = Path(source.path).absolute()
    try:
        if source.layer is None and not path.is_relative_to(layers):
            check_base(path, source.format)
        _create(machine, 0, max(size, _size(path)), path, source.format)
    except FileNotFoundError as error:
        raise NotFound(f"there is no disk {path}") from error


def freeze(machine: Folder, to: Path) -> int:
    """Hard-link the active disk to `to` and create an overlay on that; -> the overlay's number. Idempotent."""
    active = machine.disks()[-1]
    disk = machine.disk(active)
    if qcow2.backing(disk) == to:
        account.own(disk, machine.path.parent, machine.name)
        return active  # a worker was killed after this point
    try:
        new = to.with_name("new")
        new.unlink(missing_ok=True)
        if not (to.exists() and to.samefile(disk)):
            os.link(disk, new)
            new.replace(to)
    except OSError as error:
        raise trouble(error, to.parent) from error
    _create(machine, active + 1, _size(disk), to, "qcow2")
    return active + 1


def take_back(disk: Path) -> None:
    """Take a disk that no machine writes to any more from the user that its QEMU runs as."""
    disk.chmod(0o600)
    if account.trouble() is None:
        os.chown(disk, 0, 0)


def _size(path: Path) -> int:
    header = qcow2.header(path)
    size = path.stat().st_size if header is None else header.size
    return -(-size // SECTOR) * SECTOR


def _create(machine: Folder, number: int, size: int, backing: Path | None = None, format: str = "qcow2") -> None:
    disk = machine.disk(number)
    new = disk.with_suffix(".new")
    stands_on: list[str] = []
    if backing is not None:
        if len(os.fsencode(backing)) > qcow2.BACKING_LIMIT:
            raise Refused(f"{backing} is too long a name for a disk", hint="choose a shorter state_dir")
        stands_on = ["-u", "-b", str(backing), "-F", format]
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    process.output(["qemu-img", "create", "-q", "-f", "qcow2", *stands_on, "--", str(new), str(size)])
    new.chmod(0o600)
    account.own(new, machine.path.parent, machine.name)
    new.replace(disk)
