"""A small initrd: files in a newc cpio archive, as the Linux kernel unpacks it over the vendor's."""

from __future__ import annotations

import gzip
from collections.abc import Mapping


def initrd(files: Mapping[str, bytes]) -> bytes:
    """A gzipped archive of files by their paths (without a leading slash); the same files give the same bytes."""
    out = bytearray()
    made: set[str] = set()
    for path, data in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder not in made:
                made.add(folder)
                _add(out, len(made), folder, 0o40755, b"")
        made.add(path)
        _add(out, len(made), path, 0o100600, data)
    _add(out, 0, "TRAILER!!!", 0, b"")
    return gzip.compress(bytes(out), 9, mtime=0)


def _add(out: bytearray, inode: int, name: str, mode: int, data: bytes) -> None:
    raw = name.encode() + b"\0"
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
    out += b"070701" + b"".join(b"%08X" % number for number in numbers) + raw
    out += b"\0" * (-len(out) % 4)
    out += data
    out += b"\0" * (-len(out) % 4)
