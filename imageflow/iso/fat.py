"""Finds files in a FAT image inside another file, such as the EFI boot image of an ISO."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from imageflow.iso.volume import VolumeReader


@dataclass(frozen=True, slots=True)
class FatFile:
    """The location of a file's bytes."""

    path: str  # upper case, short names
    size: int
    pieces: tuple[tuple[int, int], ...]  # (byte offset in the outer file, bytes)

    def read(self, source: VolumeReader) -> bytes:
        """Its bytes."""
        return b"".join(source.read(at, size) for at, size in self.pieces)


class Fat:
    """A FAT12, FAT16 or FAT32 file system; raises ValueError for anything else."""

    def __init__(self, source: VolumeReader, at: int) -> None:
        self._source = source
        self._at = at
        head = source.read(at, 512)
        unit, per, reserved, fats, roots, small = struct.unpack_from("<HBHBHH", head, 11)
        fat = int(struct.unpack_from("<H", head, 22)[0]) or int(struct.unpack_from("<I", head, 36)[0])
        total = small or int(struct.unpack_from("<I", head, 32)[0])
        if (
            head[510:512] != b"\x55\xaa"
            or unit not in (512, 1024, 2048, 4096)
            or not (per and reserved and fats and fat)
        ):
            raise ValueError("no FAT")
        self._cluster = unit * per
        self._root_at = at + (reserved + fats * fat) * unit
        self._root_size = roots * 32
        self._data_at = self._root_at + (self._root_size + unit - 1) // unit * unit
        clusters = (total - (self._data_at - at) // unit) // per
        self._bits = 12 if clusters < 4085 else 16 if clusters < 65525 else 32
        if fat * unit > 1 << 24:
            raise ValueError("a FAT this large is none of a boot image")
        self._table = source.read(at + reserved * unit, fat * unit)
        self._root_cluster = int(struct.unpack_from("<I", head, 44)[0]) if self._bits == 32 else 0

    def files(self, depth: int = 4) -> Iterator[FatFile]:
        """All files down to `depth` folders."""
        root = self._chain(self._root_cluster) if self._root_cluster else [(self._root_at, self._root_size)]
        yield from self._folder(root, "", depth)

    def _folder(self, pieces: list[tuple[int, int]], above: str, left: int) -> Iterator[FatFile]:
        data = b"".join(self._source.read(at, size) for at, size in pieces)
        for place in range(0, len(data) - 31, 32):
            record = data[place : place + 32]
            if record[0] == 0:
                return
            if record[0] in (0xE5, 0x2E) or record[11] & 0x08:  # deleted, '.' and '..', labels and long names
                continue
            stem, suffix = record[:8].decode("latin-1").rstrip(), record[8:11].decode("latin-1").rstrip()
            path = f"{above}/{stem}{'.' if suffix else ''}{suffix}".upper()
            low, high = struct.unpack_from("<H", record, 26)[0], struct.unpack_from("<H", record, 20)[0]
            cluster, size = low | (high << 16 if self._bits == 32 else 0), struct.unpack_from("<I", record, 28)[0]
            if record[11] & 0x10:
                if left and cluster >= 2:
                    yield from self._folder(self._chain(cluster), path, left - 1)
            else:
                yield FatFile(path, size, tuple(_cut(self._chain(cluster) if size else [], size)))

    def _chain(self, cluster: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        end = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self._bits]
        while 2 <= cluster < end and len(found) < 1 << 16:
            found.append((self._data_at + (cluster - 2) * self._cluster, self._cluster))
            if self._bits == 12:
                pair = int(struct.unpack_from("<H", self._table, cluster * 3 // 2)[0])
                cluster = pair >> 4 if cluster % 2 else pair & 0xFFF
            elif self._bits == 16:
                cluster = int(struct.unpack_from("<H", self._table, cluster * 2)[0])
            else:
                cluster = int(struct.unpack_from("<I", self._table, cluster * 4)[0]) & 0x0FFFFFFF
        return found


def _cut(pieces: list[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    for at, length in pieces:
        if size <= 0:
            return
        yield at, min(length, size)
        size -= length
