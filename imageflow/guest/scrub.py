"""Finds byte strings anywhere in a raw disk, deleted files included, and overwrites them with zeros."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imageflow.content.needles import Needles
from imageflow.content.sparse import extents
from imageflow.host.control import Control

_CHUNK = 4 << 20  # bytes searched at once: small enough to stay in the processor's cache for all needles
_MIN = 4  # bytes; anything shorter occurs in every disk


def scrub(
    raw: Path, needles: Sequence[bytes], control: Control, progress: Callable[[float], None] = lambda _: None
) -> int:
    """Overwrite these byte strings in a (sparse) raw file; -> how many were found.

    `progress` gets 0…1. Needles under 4 bytes are ignored. The file keeps its size and holes.
    """
    count = 0
    with raw.open("r+b", buffering=0) as file:
        for at, needle in _matches(file.fileno(), needles, control, progress):
            _write(file.fileno(), bytes(len(needle)), at)
            count += 1
    return count


def find(
    raw: Path, needles: Sequence[bytes], control: Control, progress: Callable[[float], None] = lambda _: None
) -> list[int]:
    """Offsets at which one of these byte strings begins, in order."""
    with raw.open("rb", buffering=0) as file:
        return sorted({at for at, _ in _matches(file.fileno(), needles, control, progress)})


def _matches(
    file: int, needles: Sequence[bytes], control: Control, progress: Callable[[float], None]
) -> Iterator[tuple[int, bytes]]:
    wanted = Needles(needle for needle in needles if len(needle) >= _MIN)
    if not wanted:
        return
    size, overlap = os.fstat(file).st_size, wanted.longest - 1
    buffer = bytearray(_CHUNK + overlap)
    for start, end in extents(file, size):
        position, kept = start, 0  # the buffer starts with `kept` bytes from the end of the previous chunk
        while position < end:
            control.check()
            with memoryview(buffer) as view:
                got = os.preadv(file, [view[kept : kept + min(_CHUNK, end - position)]], position)
            if not got:
                return
            filled, base = kept + got, position - kept
            for at, needle in wanted.find(buffer, 0, filled):
                if at + len(needle) > kept:  # one that ends in the kept part was found with the previous chunk
                    yield base + at, needle
            position += got
            kept = min(overlap, filled)
            buffer[:kept] = buffer[filled - kept : filled]
            progress(position / size)


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written
