"""A machine's disks: made by qemu-img, frozen by a hard link, checked before they are trusted."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from imageflow import process
from imageflow.compute import MachineSpec, Source
from imageflow.compute.files import check_space, trouble
from imageflow.compute.qemu import qcow2
from imageflow.compute.qemu.folder import Folder
from imageflow.compute.qemu.qmp import Qmp
from imageflow.errors import CommandFailed, Corrupt, NotFound, Refused, Unavailable

_GIB = 1 << 30
_SECTOR = 512
_ROOM = 256 << 20  # bytes that a new machine needs at least
_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s")


def need_programs(emulator: str) -> None:
    """Raise Refused when QEMU is not installed."""
    for program, package in ((emulator, "qemu-system-x86"), ("qemu-img", "qemu-utils or qemu-img")):
        if shutil.which(program) is None:
            raise Refused(f"there is no {program} on this machine", hint=f"install {package}, or see [qemu] emulator")


def check_base(file: Path, format: str) -> None:
    """Raise Refused for what is not a disk of this format that stands alone: others could name files of this host."""
    try:
        header = qcow2.header(file)
    except OSError as error:
        raise trouble(error, file) from error
    if format == "raw":
        if header is not None:
            raise Refused("the base is a qcow2 file, not a raw one", hint="say format: qcow2")
        if file.stat().st_size < _SECTOR:
            raise Refused("the base is empty: it can't be a disk")
        return
    if header is None:
        raise Refused("the base is no qcow2 file", hint="say format: raw, or convert it with qemu-img")
    if header.backing is not None:
        raise Refused(
            f"the base stands on another file, {header.backing[:200]!r}",
            hint="make it whole: qemu-img convert -O qcow2 FILE NEW",
        )
    if header.outside:
        raise Refused("the base has its data in another file", hint="make it whole: qemu-img convert -O qcow2 FILE NEW")
    if header.encrypted:
        raise Refused("the base is encrypted")
    try:
        process.output(["qemu-img", "info", "-f", "qcow2", "--", str(file)])
    except CommandFailed as error:
        raise Refused(f"the base can't be read: {error.hint}") from error


def check_whole(disk: Path) -> None:
    """Raise Corrupt when the host's sudden end has damaged a disk."""
    try:
        process.output(["qemu-img", "check", "-q", "-f", "qcow2", "--", str(disk)], timeout=600.0)
    except CommandFailed as error:
        if "exit code 3" in error.message:
            return  # leaked clusters: only space
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
    """Give the active disk a second name, and put a new disk on top of that; -> the new one's number. Again is fine."""
    active = machine.disks()[-1]
    disk = machine.disk(active)
    if qcow2.backing(disk) == to:
        return active  # a worker was killed after this
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


def forwarded_port(monitor: Qmp) -> int:
    """The port on 127.0.0.1 that leads to the machine's SSH server: QEMU let the kernel choose it."""
    found = _FORWARD.search(monitor.human("info usernet"))
    if found is None:
        raise Unavailable("QEMU does not say which port leads to the machine")
    return int(found[1])


def _size(path: Path) -> int:
    header = qcow2.header(path)
    size = path.stat().st_size if header is None else header.size
    return -(-size // _SECTOR) * _SECTOR


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
    new.replace(disk)
