"""Byte strings in a disk: found in the raw file wherever they are, deleted files included, and overwritten with zeros."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from imageflow.control import Control

_CHUNK = 4 << 20  # bytes that are looked through at once: they stay in the processor's cache for every needle
_MIN = 4  # bytes; anything shorter is found in every disk


def scrub(
    raw: Path, needles: Sequence[bytes], control: Control, progress: Callable[[float], None] = lambda _: None
) -> int:
    """Overwrite every one of these byte strings in a (sparse) raw file; -> how many there were.

    `progress` gets 0…1. Needles under 4 bytes are left out. The file's size, holes and times stay a disk's.
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
    wanted = sorted({needle for needle in needles if len(needle) >= _MIN}, key=len, reverse=True)
    if not wanted:
        return
    size, overlap = os.fstat(file).st_size, len(wanted[0]) - 1
    buffer = bytearray(_CHUNK + overlap)
    for start, end in _extents(file, size):
        position, kept = start, 0  # `kept` bytes before `position` are in the buffer: the last ones of the chunk before
        while position < end:
            control.check()
            with memoryview(buffer) as view:
                got = os.preadv(file, [view[kept : kept + min(_CHUNK, end - position)]], position)
            if not got:
                return
            filled, base = kept + got, position - kept
            for needle in wanted:
                at = buffer.find(needle, 0, filled)
                while at >= 0:
                    # what ends in the kept part was found with the chunk before
                    if at + len(needle) > kept:
                        yield base + at, needle
                    at = buffer.find(needle, at + 1, filled)
            position += got
            kept = min(overlap, filled)
            buffer[:kept] = buffer[filled - kept : filled]
            progress(position / size)


def _extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Where there is data, as (start, end)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def _write(file: int, data: bytes, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written
