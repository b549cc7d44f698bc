"""Changes an ISO 9660 image without moving anything in it: new bytes are appended, records point to them.

Everything from the vendor (boot images and their tables, hidden partitions, names of any length) stays
in place byte for byte, whether we understand it or not.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from imageflow.errors import Refused
from imageflow.iso.volume import SECTOR, Entry, Tree, VolumeReader, both

FOLDER = "imageflow"  # in the root of the medium: holds all our files
_PADDING = 150  # sectors after the last byte, as drives read ahead


@dataclass(frozen=True, slots=True)
class Place:
    """A location in the new image, in sectors from its start."""

    sector: int
    size: int


class Graft:
    """Collects the changes of an image of `source.size` bytes; `patches` and `tail` are the result."""

    def __init__(self, source: VolumeReader) -> None:
        self._source = source
        self.patches: dict[int, bytes] = {}  # byte offset -> bytes, all within the vendor's image
        self.start = -(-source.size // SECTOR)  # first sector of the tail
        self.tail = bytearray()

    @property
    def sectors(self) -> int:
        """Sectors of the new volume, padding included."""
        return self.start + len(self.tail) // SECTOR + _PADDING

    def patch(self, at: int, data: bytes) -> None:
        """Replace bytes at this offset of the vendor's image."""
        self.patches[at] = data

    def put(self, data: bytes) -> Place:
        """Append bytes, starting at a new sector."""
        place = Place(self.start + len(self.tail) // SECTOR, len(data))
        self.tail += data + b"\0" * (-len(data) % SECTOR)
        return place

    def read(self, at: int, size: int) -> bytes:
        """The vendor's bytes, with patches applied."""
        data = bytearray(self._source.read(at, size))
        for offset, patch in self.patches.items():
            low, high = max(offset, at), min(offset + len(patch), at + size)
            if low < high:
                data[low - at : high - at] = patch[low - offset : high - offset]
        return bytes(data)

    def change(self, trees: list[Tree], replaced: Mapping[str, Place], added: Mapping[str, Place]) -> None:
        """Point the records of `replaced` paths to their new bytes, and add files (by name) to our folder."""
        for tree in trees:
            for path, place in replaced.items():
                entry = tree.find(path)
                if entry is not None and not entry.folder:
                    self._point(tree, entry, place)
        roots: dict[tuple[int, int], tuple[Place, bytes]] = {}
        for tree in trees:
            key = (tree.base, tree.root_lba)
            if key not in roots:
                roots[key] = self._root(tree, added)
        for tree in trees:
            self._paths(tree, *roots[tree.base, tree.root_lba])
        for tree in trees:  # the size of the volume is known now
            self.patch(tree.at + 80, _both(self.sectors - tree.base // SECTOR))
            if b"ISO MD5SUM" in tree.descriptor[883:1395]:  # the vendor's checksum of the original medium
                self.patch(tree.at + 883, b" " * 512)

    def _point(self, tree: Tree, entry: Entry, place: Place) -> None:
        if len(entry.extents) > 1:
            raise Refused(f"{entry.name} on the ISO is split")
        self.patch(entry.at + 2, _both(place.sector - tree.base // SECTOR))
        self.patch(entry.at + 10, _both(place.size))

    def _root(self, tree: Tree, added: Mapping[str, Place]) -> tuple[Place, bytes]:
        """A new root directory with our folder, and the folder; -> the root's place, our folder's identifier."""
        shift = tree.base // SECTOR
        data = self.read(tree.offset(tree.root_lba), tree.root_size)
        records = [
            data[at - tree.offset(tree.root_lba) :][: len(r)] for at, r in tree.records(tree.root_lba, tree.root_size)
        ]
        dot = records[0]
        ident = _ident(tree, FOLDER, folder=True)
        if any(entry.name.lower() == FOLDER or entry.ident == ident for entry in tree.root()):
            raise Refused("the ISO was remastered by imageflow before", hint="use the vendor's own")
        # the places of both: the folder first, so that the root can refer to it
        files = sorted((_ident(tree, name, folder=False), name, place) for name, place in added.items())
        rows = [_record(tree, i, n, p.sector - shift, p.size, dot, folder=False) for i, n, p in files]
        at = self.start + len(self.tail) // SECTOR - shift
        size = len(_packed([_dots(tree, dot, at, 0, b"\0"), _dots(tree, dot, at, 0, b"\1"), *rows]))
        ours = _record(tree, ident, FOLDER, at, size, dot, folder=True)
        new_root = [*records[:2], *_inserted(records[2:], ours, ident)]
        root_at, root_size = at + size // SECTOR, len(_packed(new_root))
        self.put(_packed([_dots(tree, dot, at, size, b"\0"), _dots(tree, dot, root_at, root_size, b"\1"), *rows]))
        head = _both(root_at), _both(root_size)
        new_root[:2] = [_placed(_linked(tree, record), *head) for record in records[:2]]
        place = self.put(_packed(new_root))
        for entry in tree.root():  # each folder in the root refers to its parent
            if entry.folder and both(entry.record, 2) == entry.lba:
                up = [at for at, _ in tree.records(entry.lba, min(entry.size, SECTOR))][1]
                self.patch(up + 2, head[0])
                self.patch(up + 10, head[1])
        return Place(place.sector, root_size), ident

    def _paths(self, tree: Tree, root: Place, ident: bytes) -> None:
        """Update the descriptor's root, and write new path tables that list our folder."""
        shift = tree.base // SECTOR
        self.patch(tree.at + 156 + 2, _both(root.sector - shift) + _both(root.size))
        folder = next(r for r in self._records(root) if r[33 : 33 + r[32]] == ident)
        table = self._source.read(tree.offset(both(tree.descriptor, 140)), both(tree.descriptor, 132))
        rows: list[tuple[bytes, int, int]] = []
        at = 0
        while at + 8 <= len(table) and table[at]:
            length, lba, parent = table[at], both(table, at + 2), int(struct.unpack_from("<H", table, at + 6)[0])
            rows.append((table[at + 8 : at + 8 + length], lba, parent))
            at += 8 + length + length % 2
        if not rows:
            return
        rows[0] = (rows[0][0], root.sector - shift, 1)
        place = 1
        while place < len(rows) and rows[place][2] == 1 and rows[place][0] < ident:
            place += 1
        number = place + 1  # the table counts from 1
        rows = [(name, lba, parent + (parent >= number)) for name, lba, parent in rows]
        rows.insert(place, (ident, both(folder, 2), 1))
        little, big = (
            b"".join(
                struct.pack(f"{order}BBIH", len(name), 0, lba, parent) + name + b"\0" * (len(name) % 2)
                for name, lba, parent in rows
            )
            for order in "<>"
        )
        first, second = self.put(little), self.put(big)
        self.patch(
            tree.at + 132,
            _both(len(little))
            + struct.pack("<II", first.sector - shift, 0)
            + struct.pack(">II", second.sector - shift, 0),
        )

    def _records(self, place: Place) -> list[bytes]:
        data = bytes(self.tail[(place.sector - self.start) * SECTOR :][: place.size])
        found, at = [], 0
        while at < len(data):
            if data[at] == 0:
                at += SECTOR - at % SECTOR
                continue
            found.append(data[at : at + data[at]])
            at += data[at]
        return found


def _both(number: int) -> bytes:
    return struct.pack("<I", number) + struct.pack(">I", number)


def _ident(tree: Tree, name: str, *, folder: bool) -> bytes:
    if tree.joliet:
        return name.encode("utf-16-be")
    upper = name.upper().replace("-", "_")
    return (upper if folder else f"{upper}{'' if '.' in upper else '.'};1").encode("ascii")


def _record(tree: Tree, ident: bytes, name: str, lba: int, size: int, dot: bytes, *, folder: bool) -> bytes:
    area = b""
    if tree.rock_ridge:
        area = b"\0" * tree.skip + b"NM" + bytes((5 + len(name), 1, 0)) + name.encode()
        area += _px(tree, dot, 0o40555 if folder else 0o100444, 2 if folder else 1)
        area += b"\0" * (len(area) % 2)
    return _raw(ident, lba, size, dot, 2 if folder else 0, area)


def _dots(tree: Tree, dot: bytes, lba: int, size: int, ident: bytes) -> bytes:
    """'.' or '..' of our folder."""
    area = b"\0" * tree.skip + _px(tree, dot, 0o40555, 2) if tree.rock_ridge else b""
    return _raw(ident, lba, size, dot, 2, area + b"\0" * (len(area) % 2))


def _raw(ident: bytes, lba: int, size: int, dot: bytes, flags: int, area: bytes) -> bytes:
    body = _both(lba) + _both(size) + dot[18:25] + bytes((flags, 0, 0)) + dot[28:32] + bytes((len(ident),)) + ident
    body += b"\0" * ((len(ident) + 1) % 2) + area
    return bytes((len(body) + 2, 0)) + body


def _px(tree: Tree, dot: bytes, mode: int, links: int) -> bytes:
    """Rock Ridge's mode, links and owner, as long as the medium's own (version 1.12 added a serial number)."""
    length = next((len(field) for field in tree.system_use(dot) if field[:2] == b"PX"), 36)
    numbers = [mode, links, 0, 0, *([0] if length >= 44 else [])]
    return b"PX" + bytes((4 + 8 * len(numbers), 1)) + b"".join(_both(number) for number in numbers)


def _linked(tree: Tree, record: bytes) -> bytes:
    """The root's own record with one more link, for our folder."""
    if not tree.rock_ridge:
        return record
    at = record.find(b"PX", 33)
    if at < 0 or at + 20 > len(record):
        return record
    return record[: at + 12] + _both(both(record, at + 12) + 1) + record[at + 20 :]


def _placed(record: bytes, lba: bytes, size: bytes) -> bytes:
    return record[:2] + lba + size + record[18:]


def _inserted(records: list[bytes], ours: bytes, ident: bytes) -> list[bytes]:
    place = next((n for n, r in enumerate(records) if r[33 : 33 + r[32]] > ident), len(records))
    return [*records[:place], ours, *records[place:]]


def _packed(records: list[bytes]) -> bytes:
    """Records packed into whole sectors; none crosses a sector boundary."""
    out = bytearray()
    for record in records:
        if len(out) % SECTOR + len(record) > SECTOR:
            out += b"\0" * (-len(out) % SECTOR)
        out += record
    return bytes(out + b"\0" * (-len(out) % SECTOR))
