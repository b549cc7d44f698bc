"""The serial console of a server as one text that only grows: Nova shows the last part of its last boot."""

from __future__ import annotations

import os
from pathlib import Path

_TAIL = 2048  # bytes by which a piece is recognised: as much as is not said twice
_LEAST = 64  # fewer could stand anywhere


def merge(known: bytes, seen: bytes) -> bytes:
    """What is new in `seen`, the last part of what a console says now, to someone who knows `known`.

    What Nova has dropped meanwhile is lost; a boot begins again with an empty console.
    """
    if not seen or known.endswith(seen):
        return b""
    tail = known[-_TAIL:]
    for length in (len(tail), 512, _LEAST):
        part = tail[-length:]
        if len(part) >= min(_LEAST, len(known)) and part and (at := seen.rfind(part)) >= 0:
            return seen[at + len(part) :]
    return seen


class Console:
    """What one machine has said, in a file of this host."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def add(self, seen: bytes) -> None:
        """What Nova shows right now."""
        if not seen:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._file.open("a+b") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(max(0, size - max(len(seen), _TAIL)))
            file.write(merge(file.read(), seen))

    def read(self, offset: int = 0) -> bytes:
        """From this byte on; b'' when nothing was said."""
        try:
            with self._file.open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""
