"""Partition tables of hybrid ISOs: grows the partition that holds the ISO, and keeps the GPT valid."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from imageflow.iso.volume import SECTOR, VolumeReader

BLOCK = 512
_TABLE = 446  # offset of the MBR's four entries
_PROTECTIVE = 0xEE


@dataclass(frozen=True, slots=True)
class Partition:
    """An entry of the MBR or the GPT; blocks of 512 bytes."""

    at: int  # byte offset of the entry in the file
    first: int
    count: int
    kind: int  # type byte in the MBR, -1 in the GPT


@dataclass(frozen=True, slots=True)
class Table:
    """The partition tables of an ISO."""

    mbr: tuple[Partition, ...]
    gpt: tuple[Partition, ...]
    array: tuple[int, int, int] | None  # the GPT's entries: first block, count, bytes each; None: no GPT

    @property
    def hybrid(self) -> bool:
        """Whether it can be booted as a disk."""
        return bool(self.mbr)


def read(source: VolumeReader) -> Table:
    """The partition tables in an image's first blocks."""
    head = source.read(0, 2 * BLOCK)
    mbr = []
    if head[510:512] == b"\x55\xaa":
        for number in range(4):
            at = _TABLE + 16 * number
            first, count = struct.unpack_from("<II", head, at + 8)
            if count:
                mbr.append(Partition(at, first, count, head[at + 4]))
    if head[512:520] != b"EFI PART":
        return Table(tuple(mbr), (), None)
    lba, number, size = struct.unpack_from("<QII", head, 512 + 72)
    if not (size >= 128 and 0 < number <= 1024):
        return Table(tuple(mbr), (), None)
    data = source.read(lba * BLOCK, number * size)
    gpt = []
    for index in range(number):
        at = index * size
        first, last = struct.unpack_from("<QQ", data, at + 32)
        if any(data[at : at + 16]):
            gpt.append(Partition(lba * BLOCK + at, first, last - first + 1, -1))
    return Table(tuple(mbr), tuple(gpt), (lba, number, size))


def grown(table: Table, volume: int) -> list[Partition]:
    """The entries to grow: those that hold the ISO of `volume` bytes and would not overlap another one.

    Entries wholly inside it (an EFI boot image that is a file of the ISO) were inside before.
    """
    found = []
    for entries in (table.mbr, table.gpt):
        for entry in entries:
            end = entry.first + entry.count
            starts_it = entry.first <= SECTOR * 16 // BLOCK and entry.kind != _PROTECTIVE
            # 64: possible padding by the vendor; an entry that ends before the volume does not hold the volume
            if starts_it and end * BLOCK >= volume - 64 * SECTOR * 16:
                behind = [other for other in entries if other is not entry and other.first >= end]
                if not behind:
                    found.append(entry)
    return found


def patches(source: VolumeReader, table: Table, grow: list[Partition], size: int) -> list[tuple[int, bytes]]:
    """(byte offset, bytes) that adapt the tables to an image of `size` bytes, with the GPT's backup at its end."""
    done: list[tuple[int, bytes]] = []
    blocks = size // BLOCK
    for entry in table.mbr:
        if entry.kind == _PROTECTIVE and entry.first == 1:
            done.append((entry.at + 12, struct.pack("<I", min(blocks - 1, 0xFFFFFFFF))))
        elif entry in grow:
            done.append((entry.at + 5, _chs(blocks - 1)))
            done.append((entry.at + 12, struct.pack("<I", min(blocks - entry.first, 0xFFFFFFFF))))
    if table.array is None:
        return done
    lba, number, unit = table.array
    array = bytearray(source.read(lba * BLOCK, number * unit))
    room = -(-len(array) // BLOCK)
    last_usable = blocks - room - 2
    for entry in table.gpt:
        if entry in grow:
            struct.pack_into("<Q", array, entry.at - lba * BLOCK + 40, last_usable)
    header = bytearray(source.read(BLOCK, BLOCK))
    length = min(max(struct.unpack_from("<I", header, 12)[0], 92), BLOCK)
    struct.pack_into("<Q", header, 48, last_usable)
    struct.pack_into("<I", header, 88, zlib.crc32(array))

    def signed(mine: int, other: int, array_at: int) -> bytes:
        struct.pack_into("<QQ", header, 24, mine, other)
        struct.pack_into("<Q", header, 72, array_at)
        struct.pack_into("<I", header, 16, 0)
        struct.pack_into("<I", header, 16, zlib.crc32(header[:length]))
        return bytes(header)

    done.append((BLOCK, signed(1, blocks - 1, lba)))
    done.append((lba * BLOCK, bytes(array)))
    done.append(((blocks - 1 - room) * BLOCK, bytes(array)))
    done.append(((blocks - 1) * BLOCK, signed(blocks - 1, 1, blocks - 1 - room)))
    return done


def _chs(block: int) -> bytes:
    cylinder, rest = divmod(block, 64 * 32)
    head, sector = divmod(rest, 32)
    if cylinder > 1023:
        return b"\xfe\xff\xff"
    return bytes((head, (sector + 1) | (cylinder >> 2 & 0xC0), cylinder & 0xFF))
