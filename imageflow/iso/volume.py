"""Reads ISO 9660: descriptors, directory trees with Rock Ridge or Joliet names, the El Torito boot catalogue."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from imageflow.errors import Refused

SECTOR = 2048
_DESCRIPTORS = 64  # more volume descriptors than any medium has
_MOST = 1 << 24  # bytes of one directory; a larger one means damage
_CONTINUED = 1 << 16  # bytes of one continuation of a record; they are a sector at most where we have seen them
_ALL = 1 << 27  # bytes of all directories and continuations that are read; a Debian DVD has 20 MiB
_JOLIET = (b"%/@", b"%/C", b"%/E")

BIOS, EFI = 0x00, 0xEF  # El Torito's platforms


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory record on the medium."""

    name: str
    ident: bytes
    folder: bool
    lba: int  # of its first extent, in sectors of its tree
    size: int  # bytes of all its extents
    at: int  # byte offset of the (first) record in the file
    record: bytes
    extents: tuple[tuple[int, int], ...]  # (lba, bytes)


@dataclass(frozen=True, slots=True)
class BootEntry:
    """An entry of the boot catalogue."""

    platform: int
    lba: int
    sectors: int  # of 512 bytes, to be loaded by the firmware


class VolumeReader:
    """Bounded reads from an image file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = _ALL
        self.size = size

    def read_metadata(self, at: int, size: int) -> bytes:
        """Read a part of a directory; raises Refused when they have no end, as when they overlap each other."""
        self._left -= size
        if self._left < 0:
            raise Refused("the ISO is damaged: its directories have no end", hint="download it again")
        return self.read(at, size)

    def read(self, at: int, size: int) -> bytes:
        """Exactly `size` bytes from byte `at`; raises Refused when the image ends before."""
        if at < 0 or size < 0 or at + size > self.size:
            raise Refused("the ISO is damaged: something in it points beyond its end", hint="download it again")
        self._file.seek(at)
        return self._file.read(size)


class Tree:
    """A directory tree: of the primary volume descriptor, of Joliet's, or of either at a partition's start."""

    def __init__(self, source: VolumeReader, at: int, base: int = 0) -> None:
        """`at`: byte offset of the volume descriptor; `base`: byte offset of the tree's sector 0."""
        self.source = source
        self.at = at
        self.base = base
        self.descriptor = source.read(at, SECTOR)
        self.joliet = self.descriptor[0] == 2 and self.descriptor[88:91] in _JOLIET
        self.primary = self.descriptor[0] == 1
        self.root_lba, self.root_size = both(self.descriptor, 156 + 2), both(self.descriptor, 156 + 10)
        self.blocks = both(self.descriptor, 80)
        if both(self.descriptor, 128) & 0xFFFF != SECTOR:
            raise Refused("the ISO's sectors are not 2048 bytes")
        self.skip = 0
        self.rock_ridge = False
        if not self.joliet:
            self._look_for_rock_ridge()

    @property
    def label(self) -> str:
        """The volume's label."""
        raw = self.descriptor[40:72]
        return (raw.decode("utf-16-be", "replace") if self.joliet else raw.decode("latin-1")).rstrip(" \0")

    def offset(self, lba: int) -> int:
        """Byte offset in the file of a sector of this tree."""
        return self.base + lba * SECTOR

    def folder(self, lba: int, size: int) -> Iterator[Entry]:
        """The entries of the directory at this extent, without '.' and '..'."""
        waiting: list[Entry] = []
        for at, record in self.records(lba, size):
            if record[32] == 1 and record[33] in (0, 1):
                continue
            entry = self._entry(at, record)
            if entry is None:
                continue
            if record[25] & 0x80:  # more extents of this file follow
                waiting.append(entry)
                continue
            if waiting:
                extents = (*(part.extents[0] for part in waiting), *entry.extents)
                first = waiting[0]
                entry = Entry(
                    first.name,
                    first.ident,
                    False,
                    first.lba,
                    sum(n for _, n in extents),
                    first.at,
                    first.record,
                    extents,
                )
                waiting = []
            yield entry

    def records(self, lba: int, size: int) -> Iterator[tuple[int, bytes]]:
        """(byte offset, record) of all records of the directory at this extent."""
        if size > _MOST:
            raise Refused("the ISO is damaged: a directory without end", hint="download it again")
        at = self.offset(lba)
        data = self.source.read_metadata(at, size)
        place = 0
        while place < size:
            length = data[place]
            if length == 0:
                place += SECTOR - place % SECTOR
                continue
            record = data[place : place + length]
            if length < 34 or len(record) < length or 33 + record[32] > length:
                raise Refused("the ISO is damaged: a directory record makes no sense", hint="download it again")
            yield at + place, record
            place += length

    def root(self) -> Iterator[Entry]:
        """The entries of the root directory."""
        return self.folder(self.root_lba, self.root_size)

    def find(self, path: str) -> Entry | None:
        """The file or folder at an absolute path; falls back to a case-insensitive comparison."""
        lba, size = self.root_lba, self.root_size
        entry: Entry | None = None
        for part in path.strip("/").split("/"):
            if entry is not None and not entry.folder:
                return None
            entries = list(self.folder(lba, size))
            entry = next((e for e in entries if e.name == part), None) or next(
                (e for e in entries if e.name.lower() == part.lower()), None
            )
            if entry is None:
                return None
            lba, size = entry.lba, entry.size
        return entry

    def walk(self, depth: int, without: frozenset[str] = frozenset()) -> Iterator[tuple[str, Entry]]:
        """(path, file) down to `depth` folders, in order; folders named in `without` (lower case) are left out."""
        waiting = [("", self.root_lba, self.root_size, depth)]
        seen: set[int] = set()
        while waiting:
            above, lba, size, left = waiting.pop(0)
            if lba in seen:
                continue
            seen.add(lba)
            for entry in self.folder(lba, size):
                path = f"{above}/{entry.name}"
                if not entry.folder:
                    yield path, entry
                elif left and entry.name.lower() not in without:
                    waiting.append((path, entry.lba, entry.size, left - 1))

    def content(self, entry: Entry, most: int = 1 << 20) -> bytes:
        """A small file's bytes."""
        if entry.size > most:
            raise Refused(f"{entry.name} on the ISO is larger than {most} bytes")
        return b"".join(self.source.read(self.offset(lba), size) for lba, size in entry.extents)

    def system_use(self, record: bytes) -> Iterator[bytes]:
        """The entries of a record's SUSP area (which Rock Ridge uses), continuations included."""
        start = 33 + record[32] + (record[32] + 1) % 2 + self.skip
        areas = [record[start:]]
        for _ in range(64):
            if not areas:
                return
            area = areas.pop()
            place = 0
            while place + 4 <= len(area):
                length = area[place + 2]
                if length < 4 or place + length > len(area):
                    break
                field = area[place : place + length]
                if field[:2] == b"CE" and length >= 28:
                    lba, at, size = both(field, 4), both(field, 12), both(field, 20)
                    if size <= _CONTINUED:
                        areas.append(self.source.read_metadata(self.offset(lba) + at, size))
                elif field[:2] == b"ST":
                    break
                yield field
                place += length

    def _entry(self, at: int, record: bytes) -> Entry | None:
        ident = record[33 : 33 + record[32]]
        lba, size = both(record, 2), both(record, 10)
        folder = bool(record[25] & 0x02)
        if self.joliet:
            name = ident.decode("utf-16-be", "replace").split(";")[0]
        else:
            name = ident.decode("latin-1").split(";")[0].rstrip(".").lower()
        if self.rock_ridge:
            named = b""
            for field in self.system_use(record):
                if field[:2] == b"NM":
                    named += field[5:]
                elif field[:2] == b"RE":
                    return None  # physical place of a relocated deep folder; it is listed at its logical place
                elif field[:2] == b"CL":
                    lba, folder = both(field, 4), True
                    size = both(self.source.read(self.offset(lba), 34), 10)
            name = named.decode("utf-8", "surrogateescape") or name
        return Entry(name, ident, folder, lba, size, at, record, ((lba, size),))

    def _look_for_rock_ridge(self) -> None:
        record = next((r for _, r in self.records(self.root_lba, SECTOR)), b"")
        for field in self.system_use(record) if record else ():
            if field[:2] == b"SP" and field[4:6] == b"\xbe\xef":
                self.skip = field[6]
                self.rock_ridge = True


def both(data: bytes, at: int) -> int:
    """A 32-bit number stored in both byte orders."""
    return int(struct.unpack_from("<I", data, at)[0])


def trees(source: VolumeReader, base: int = 0) -> tuple[list[Tree], int | None]:
    """All trees of the volume at `base`, the primary first, and the sector of the boot catalogue.

    Raises Refused when there is no such volume.
    """
    found: list[Tree] = []
    catalogue = None
    for number in range(16, 16 + _DESCRIPTORS):
        at = base + number * SECTOR
        head = source.read(at, SECTOR) if at + SECTOR <= source.size else b""
        if head[1:6] != b"CD001" or head[0] == 255:
            break
        if head[0] in (1, 2):
            found.append(Tree(source, at, base))
        elif head[0] == 0 and head[7:30] == b"EL TORITO SPECIFICATION":
            catalogue = int(struct.unpack_from("<I", head, 71)[0])
    found.sort(key=lambda tree: not tree.primary)
    if not found or not found[0].primary:
        raise Refused("this is not an ISO 9660 image", hint="give the installer's .iso file")
    return found, catalogue


def boot_images(source: VolumeReader, lba: int) -> list[BootEntry]:
    """The bootable entries of the El Torito boot catalogue at this sector."""
    data = source.read(lba * SECTOR, SECTOR)
    if data[0] != 1 or data[30:32] != b"\x55\xaa":
        return []
    found = []

    def add(platform: int, at: int) -> None:
        if data[at] == 0x88:
            found.append(BootEntry(platform, both(data, at + 8), int(struct.unpack_from("<H", data, at + 6)[0])))

    add(data[1], 32)
    at = 64
    while at + 32 <= SECTOR and data[at] in (0x90, 0x91):
        platform, count, last = data[at + 1], int(struct.unpack_from("<H", data, at + 2)[0]), data[at] == 0x91
        at += 32
        for _ in range(count):
            while at + 32 <= SECTOR and data[at] == 0x44:
                at += 32
            if at + 32 > SECTOR:
                break
            add(platform, at)
            at += 32
        if last:
            break
    return found
