"""The serial console of a server as one text that only grows: Nova shows the last part of its last boot."""

from __future__ import annotations

import os
from pathlib import Path

_HEAD = 64  # bytes by which the beginning of what Nova shows is looked for
_BEFORE = 1 << 16  # bytes: an older look, that comes in later, lies this far back at most


def merge(known: bytes, seen: bytes) -> bytes:
    """What is new in `seen`, the last part of what a console says now, to someone who knows `known`.

    It is what follows the longest end of `known` that `seen` begins with. What Nova has dropped meanwhile is lost; a
    boot begins again with an empty console.
    """
    if seen in known:  # nothing new, or an older look
        return b""
    at = known.find(seen[:_HEAD], max(0, len(known) - len(seen)))
    while at >= 0:
        if seen.startswith(known[at:]):
            return seen[len(known) - at :]
        at = known.find(seen[:_HEAD], at + 1)
    for length in range(min(_HEAD, len(known)), 0, -1):
        if known.endswith(seen[:length]):
            return seen[length:]
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
            file.seek(max(0, size - len(seen) - _BEFORE))
            file.write(merge(file.read(), seen))

    def read(self, offset: int = 0) -> bytes:
        """From this byte on; b'' when nothing was said."""
        try:
            with self._file.open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""
