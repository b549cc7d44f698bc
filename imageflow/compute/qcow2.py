"""Reads qcow2 headers: cheap enough for every disk at any time."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FIXED = struct.Struct(">4sIQIIQI")  # magic, version, backing offset and length, cluster bits, size, encryption
_MAGIC = b"QFI\xfb"
_INCOMPATIBLE = 72  # offset of the features that a reader must know, from version 3 on
_DATA_FILE = 1 << 2
BACKING_LIMIT = 1023  # bytes of the backing file's name


@dataclass(frozen=True, slots=True)
class Header:
    """A qcow2 file's header."""

    size: int  # virtual size in bytes
    backing: str | None  # as written in the header
    outside: bool  # its data is in a file of its own
    encrypted: bool


def header(path: Path) -> Header | None:
    """A file's header; None when it is not qcow2. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(_INCOMPATIBLE + 8)
        if len(start) < _INCOMPATIBLE or not start.startswith(_MAGIC):
            return None
        _, version, offset, length, _, size, encryption = _FIXED.unpack_from(start)
        backing = None
        if offset:
            file.seek(offset)
            backing = file.read(min(length, BACKING_LIMIT)).decode("utf-8", "surrogateescape")
        features = int.from_bytes(start[_INCOMPATIBLE:], "big") if version > 2 else 0
        return Header(size, backing, bool(features & _DATA_FILE), encryption != 0)


def backing(path: Path) -> Path | None:
    """Its backing file; raises OSError when it is missing."""
    found = header(path)
    return None if found is None or found.backing is None else path.parent / found.backing


def chain(path: Path) -> Iterator[Path]:
    """The file, its backing file, and so on; raises OSError at a missing one."""
    seen = set()
    below: Path | None = path
    while below is not None and below not in seen:
        seen.add(below)
        above, below = below, backing(below)
        yield above
