"""What a qcow2 file says of itself in its header: cheap enough to be asked of every disk at any time."""

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

    size: int  # bytes that a guest sees
    backing: str | None  # as it is written there
    outside: bool  # its data is in a file of its own
    encrypted: bool


def header(path: Path) -> Header | None:
    """None: it is no qcow2 file; raises OSError."""
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
    """What it stands on; raises OSError when it isn't there."""
    found = header(path)
    return None if found is None or found.backing is None else path.parent / found.backing


def chain(path: Path) -> Iterator[Path]:
    """The file, what it stands on, and so on; raises OSError at one that isn't there."""
    seen = set()
    below: Path | None = path
    while below is not None and below not in seen:
        seen.add(below)
        above, below = below, backing(below)
        yield above
