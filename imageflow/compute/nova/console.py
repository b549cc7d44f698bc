"""A server's serial console as one growing text: Nova shows only the last part of the last boot."""

from __future__ import annotations

import os
from pathlib import Path

_HEAD = 64  # bytes of the start of Nova's output that are searched for
_BEFORE = 1 << 16  # bytes: a stale answer that arrives late lies at most this far back


def merge(known: bytes, seen: bytes) -> bytes:
    """The new part of `seen`, the current tail of a console of which `known` was seen before.

    It follows the longest suffix of `known` with which `seen` begins. Output that Nova dropped meanwhile is lost; a
    boot starts with an empty console.
    """
    if seen in known:  # nothing new, or a stale answer
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


class ConsoleFile:
    """One machine's console output, in a file on this host."""

    def __init__(self, file: Path, most: int = 1 << 25) -> None:
        """At most so many bytes are kept: what comes afterwards is left out."""
        self._file = file
        self._most = most

    def add(self, seen: bytes) -> None:
        """Add what Nova shows right now."""
        seen = seen[-self._most :]
        if not seen:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._file.open("a+b") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(max(0, size - len(seen) - _BEFORE))
            new = merge(file.read(), seen)
            if size < self._most:
                file.write(new if size + len(new) <= self._most else new[: self._most - size])

    def read(self, offset: int = 0) -> bytes:
        """The output from this byte on; b'' when there is none."""
        try:
            with self._file.open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""
