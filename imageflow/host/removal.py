"""Removes what builds leave behind on this host: folders, mounts, loop devices; missing ones are fine.

Used by the tasks' reverts and by the janitor. Nothing here crosses a mount: while diskimage-builder
works, `mnt/dev` in a work folder is the host's own /dev.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imageflow.errors import ImageflowError, Refused
from imageflow.host import process
from imageflow.model import ResourceKind

_PATIENCE = (
    10.0  # seconds for delayed cleanup in the kernel: the last user of a dead namespace's mount, a busy loop device
)
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO = struct.Struct("=QQ216s")  # lo_device, lo_inode, the rest of struct loop_info64
_DELETED = " (deleted)"


def remove(kind: ResourceKind, name: str) -> None:
    """Remove a resource of the ledger; `name` is described at model.ResourceKind.

    Raises ImageflowError when it can't be removed or is not on this host (a publication).
    """
    if kind not in (ResourceKind.DIRECTORY, ResourceKind.MOUNT, ResourceKind.LOOP):
        raise ImageflowError(f"{kind} {name} is not only on this host: its driver removes it")
    path = Path(name)
    if not path.is_absolute() or len(path.parts) < 3 or ".." in path.parts:
        raise ImageflowError(f"{name!r} is not a path that a build could have made")
    if kind is ResourceKind.LOOP:
        detach_loops(path)
    elif kind is ResourceKind.MOUNT:
        detach_loops(path)
        unmount(path)
    else:
        remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a file or a folder, with everything attached to it or mounted below it."""
    detach_loops(path)
    unmount(path)
    if os.path.lexists(path):
        process.output(["rm", "-rf", "--one-file-system", "--", str(path)], timeout=600.0)


# -- mounts ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    path: Path
    device: int  # as in os.stat().st_dev
    root: str  # the mounted part of the file system: '/' except for bind mounts


def mounts() -> list[Mount]:
    """All mounts, in mount order."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        _, _, device, root, path, *_ = line.split(b" ")
        major, _, minor = device.partition(b":")
        found.append(Mount(Path(_unescaped(path)), os.makedev(int(major), int(minor)), _unescaped(root)))
    return found


def mounts_under(path: Path) -> list[Mount]:
    """The mounts at `path` or below it, last mounted first."""
    return [mount for mount in reversed(mounts()) if mount.path.is_relative_to(path)]


def mount_tmpfs(path: Path, size: int) -> None:
    """Mount a tmpfs of at most `size` bytes at an empty folder; an existing tmpfs is kept."""
    if not mounts_under(path):
        path.mkdir(parents=True, exist_ok=True)
        options = f"size={size},mode=0755"
        process.output(["mount", "-t", "tmpfs", "-o", options, "imageflow", str(path)])


def unmount(path: Path) -> None:
    """Unmount everything at `path` or below it."""
    _unmount(mounts_under(path))


def _unmount(these: list[Mount]) -> None:
    for mount in these:
        try:
            process.output(["umount", "--", str(mount.path)])
        except Refused:
            # Lazily: it disappears from here at once, and from the kernel with its last user.
            if mount in mounts():
                process.output(["umount", "--lazy", "--", str(mount.path)])


def _unescaped(field: bytes) -> str:
    return os.fsdecode(field.decode("unicode_escape").encode("latin-1")) if b"\\" in field else os.fsdecode(field)


# -- loop devices ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop device with a backing file."""

    name: str  # 'loop0'
    file: str  # as the kernel reports it now, without '(deleted)'
    device: int  # of the file's file system; 0 when the loop device can't be queried
    inode: int  # of the file

    @property
    def node(self) -> str:
        return f"/dev/{self.name}"


def loops() -> Iterator[Loop]:
    """Every loop device of this host with a backing file."""
    for entry in sorted(Path("/sys/block").glob("loop*")):
        with contextlib.suppress(OSError):
            file = os.fsdecode((entry / "loop" / "backing_file").read_bytes()).removesuffix("\n")
            yield Loop(entry.name, file.removesuffix(_DELETED), *_file_of(entry.name))


def loops_under(path: Path) -> list[Loop]:
    """The loop devices whose file is (or was) below `path`.

    A file opened in a mount namespace that is gone is named from the root of its file system, not from /:
    then its file system has to match, too.
    """
    here = {mount.device for mount in mounts_under(path)}
    outer, shortened = _on_its_file_system(path)

    def belongs(loop: Loop) -> bool:
        if loop.device in here:
            return True
        names = [str(path)] if loop.device != outer else [str(path), shortened]
        return any(loop.file == name or loop.file.startswith(name.rstrip("/") + "/") for name in names)

    return [loop for loop in loops() if belongs(loop)]


def detach_loops(path: Path) -> list[str]:
    """Detach every loop device whose file is below `path`, with its partitions; -> their names."""
    found = loops_under(path)
    for loop in found:
        block = Path("/sys/block") / loop.name
        numbers = _numbers(block)
        _unmount([mount for mount in reversed(mounts()) if mount.device in numbers])
        _drop_holders(block)
        if list(block.glob(f"{loop.name}p*")):
            _attempt(["partx", "-d", loop.node])
        _attempt(["losetup", "-d", loop.node])
        # The kernel detaches a device in use when its last user is gone.
        if not _gone_soon(loop):
            raise Refused(f"{loop.node} ({loop.file}) can't be detached", hint=f"see what uses it: lsblk {loop.node}")
    return [loop.name for loop in found]


def _on_its_file_system(path: Path) -> tuple[int, str]:
    """-> (device, path from that file system's root) of the file system that `path` is, or was, on."""
    over = [mount for mount in mounts() if path.is_relative_to(mount.path)]
    mount = max(over, key=lambda m: len(m.path.parts))
    return mount.device, str(Path(mount.root) / path.relative_to(mount.path))


def _file_of(name: str) -> tuple[int, int]:
    with contextlib.suppress(OSError), open(f"/dev/{name}", "rb", buffering=0) as node:
        device, inode, _ = _LOOP_INFO.unpack(fcntl.ioctl(node, _LOOP_GET_STATUS64, bytes(_LOOP_INFO.size)))
        return int(device), int(inode)
    return 0, 0


def _attached(loop: Loop) -> bool:
    key = (loop.name, loop.device, loop.inode)
    return any((other.name, other.device, other.inode) == key for other in loops())


def _holders(block: Path) -> list[Path]:
    found = [*block.glob("holders/*"), *block.glob(f"{block.name}p*/holders/*")]
    return [Path("/sys/block") / holder.name for holder in found]


def _numbers(block: Path) -> set[int]:
    """The device numbers of a block device, its partitions, and device-mapper's devices on them."""
    numbers = set()
    for file in (block / "dev", *block.glob(f"{block.name}p*/dev")):
        with contextlib.suppress(OSError):
            major, _, minor = file.read_text().strip().partition(":")
            numbers.add(os.makedev(int(major), int(minor)))
    return numbers.union(*map(_numbers, _holders(block)))


def _drop_holders(block: Path) -> None:
    """Remove device-mapper's devices (kpartx, LVM) on top of a block device, topmost first."""
    for device in _holders(block):
        _drop_holders(device)
        with contextlib.suppress(OSError):
            _attempt(["dmsetup", "remove", "--retry", (device / "dm" / "name").read_text().strip()])


def _attempt(argv: list[str]) -> None:
    """Run a command and ignore its exit code: /sys shows whether it worked."""
    with contextlib.suppress(Refused):
        process.output(argv)


def _gone_soon(loop: Loop) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while _attached(loop):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
