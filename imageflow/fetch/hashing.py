"""SHA-256 of a large file, interruptible."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from imageflow.errors import Corrupt
from imageflow.host.control import Control

if TYPE_CHECKING:
    from hashlib import _Hash

CHUNK = 1 << 20


def hashed(descriptor: int, control: Control, progress: Callable[[float], None] = lambda done: None) -> _Hash:
    """The hash of an open file's whole content."""
    size = max(os.fstat(descriptor).st_size, 1)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    sha, buffer, offset = hashlib.sha256(), memoryview(bytearray(CHUNK)), 0
    while count := os.preadv(descriptor, [buffer], offset):
        control.check()
        sha.update(buffer[:count])
        offset += count
        progress(min(offset / size, 1.0))
    return sha


def corrupt(name: str, wanted: str, found: str) -> Corrupt:
    """The error for a file with a wrong digest."""
    return Corrupt(
        f"{name} has the SHA-256 {found}, not {wanted}",
        hint="get the right file; if it was replaced by one that you trust, write its SHA-256 into the recipe",
    )
