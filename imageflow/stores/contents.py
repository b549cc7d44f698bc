"""File contents: copied by the kernel without holes, durable when a function returns."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imageflow.host.control import Control

_CHUNK = 16 << 20  # between two looks at the control
_NO_RANGES = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EBADF,
    errno.EPERM,
}


def sync_folder(folder: Path) -> None:
    """Make creations, renames and removals in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(source: Path, to: Path, mode: int) -> bool:
    """Hard-link the file, durably; False when that is not possible."""
    if source.is_symlink():
        return False
    try:
        os.link(source, to)
    except OSError as error:
        if error.errno in (
            errno.EXDEV,
            errno.EPERM,
            errno.EMLINK,
            errno.EOPNOTSUPP,
            errno.ENOSYS,
        ):
            return False
        raise
    descriptor = os.open(to, os.O_RDONLY)
    try:
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True


def copy(source: int, to: Path, control: Control, mode: int = 0o666) -> None:
    """Copy an open file to a new one, with shared extents if the file system can; sparse stays sparse.

    Raises FileExistsError, OSError, and what `control` raises; a half-made copy is left to the caller.
    """
    descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        size = os.fstat(source).st_size
        os.ftruncate(descriptor, size)
        offset = 0
        move = _by_range
        while offset < size:
            start, end = _data(source, offset, size)
            while start < end:
                control.check()
                try:
                    moved = move(source, descriptor, start, min(_CHUNK, end - start))
                except OSError as error:
                    if move is _by_sendfile or error.errno not in _NO_RANGES:
                        raise
                    move = _by_sendfile
                    continue
                if moved == 0:
                    raise OSError(
                        errno.EIO,
                        "the file became shorter while it was copied",
                        os.fspath(to),
                    )
                start += moved
            offset = end
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _data(source: int, offset: int, size: int) -> tuple[int, int]:
    """The next run of data at or after `offset`; (size, size) when only a hole is left."""
    try:
        start = os.lseek(source, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        return offset, size  # the file system does not support holes
    return start, os.lseek(source, start, os.SEEK_HOLE)


def _by_range(source: int, to: int, offset: int, count: int) -> int:
    return os.copy_file_range(source, to, count, offset, offset)


def _by_sendfile(source: int, to: int, offset: int, count: int) -> int:
    os.lseek(to, offset, os.SEEK_SET)
    return os.sendfile(to, source, offset, count)


def digest(source: int, control: Control, progress: Callable[[int], None] = lambda count: None) -> str:
    """SHA-256 of an open file, read from the disk instead of the cache if possible; `progress` gets bytes read."""
    os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(source, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    sha = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 20))
    os.lseek(source, 0, os.SEEK_SET)
    while count := os.readv(source, [buffer]):
        control.check()
        sha.update(buffer[:count])
        progress(count)
    return sha.hexdigest()


def write_json(path: Path, value: Any, mode: int) -> None:
    """Write a small new JSON file durably; raises FileExistsError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(descriptor)
