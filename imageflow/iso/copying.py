"""Copies a large file inside the kernel, with its holes; shares blocks if the file system can."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from imageflow.host.control import Control

_PIECE = 32 << 20  # bytes between two looks at the control


def copy(source: int, to: int, size: int, control: Control, progress: Callable[[int], None]) -> None:
    """Copy the first `size` bytes of one open file to the same offsets of another; `progress` gets bytes done."""
    for start, end in _data(source, size):
        at = start
        while at < end:
            control.check()
            done = _piece(source, to, at, min(_PIECE, end - at))
            if not done:
                raise OSError(errno.EIO, "the ISO became shorter while it was read")
            at += done
            progress(at)
    os.ftruncate(to, size)


def _piece(source: int, to: int, at: int, size: int) -> int:
    try:
        return os.copy_file_range(source, to, size, at, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
    os.lseek(to, at, os.SEEK_SET)
    return os.sendfile(to, source, at, size)


def _data(source: int, size: int) -> Iterator[tuple[int, int]]:
    """The data extents, as (start, end)."""
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
            end = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only holes from here on
                return
            start, end = at, size  # the file system does not support holes
        yield start, min(end, size)
        at = end
