"""The content digest of an image, over its packages and its file tree, independent of when and where it was built.

Two builds of one recipe with the same packages have the same content, even if their disks differ in layout.
`listing.py` lists a tree in place, `left_out.py` defines what does not count.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from imageflow.content.left_out import leaves_out

_HEADER = "imageflow content 1"
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "pipe",
}  # a socket belongs to the program that serves it
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)
_PATH = re.compile(rb"p ([0-9a-f]+) (\d+) (\d+) (\d+) ([0-9a-f]+) ([0-9a-f]+) \.(/.*|)")
_HASH = re.compile(rb"(\\?)([0-9a-f]{64}) [ *]\.(/.*)")
_GONE = re.compile(rb"x \.(/.*)")
_NORMAL = re.compile(rb"n ([0-9a-f]{64}) \.(/.*)")
_CAPABILITY = re.compile(rb"\.(/.*?)(?: =)? (\S+)")
_MACHINE_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
_ESCAPES = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}


class Unreadable(ValueError):
    """A listing that is incomplete or can't be parsed."""


def digest(packages: Iterable[Mapping[str, str]] | None, listing: bytes) -> str:
    """The content digest, 64 hex.

    packages: {"name", "version", "arch"} each, in any order; None if unknown, as their files are known anyway
    listing: the output of `listing.script`. Raises Unreadable when it is incomplete.
    """
    lines = sorted({f"{package['name']}={package['version']}={package['arch']}" for package in packages or ()})
    whole = hashlib.sha256()
    for line in (_HEADER, *lines, *(json.dumps(entry) for entry in entries(listing))):
        whole.update(line.encode() + b"\n")
    return whole.hexdigest()


def entries(listing: bytes) -> list[list[Any]]:
    """What counts of a listed tree: [path, kind, mode, uid, gid, content …] each, sorted by path."""
    tree = _Tree(listing)
    return [entry for path in sorted(tree.paths) if (entry := tree.entry(path)) is not None]


class _Tree:
    """A parsed listing."""

    def __init__(self, listing: bytes) -> None:
        self.paths: dict[bytes, tuple[int, ...]] = {}  # -> mode, uid, gid, size, major, minor
        self._hashes: dict[bytes, str] = {}
        self._normal: dict[bytes, str] = {}
        self._targets: dict[bytes, str] = {}
        self._capabilities: dict[bytes, str] = {}
        self._gone: set[bytes] = set()  # listed paths that will be removed
        lines = listing.split(b"\n")
        if lines[-2:] != [b"end", b""]:
            raise Unreadable("it ends in the middle")
        rest = iter(lines[:-2])
        for line in rest:
            if line.startswith(b"l "):
                self._targets[_own(line[2:])] = _target(line[2:], next(rest, b""))
            else:
                self._take(line)
        if b"/" not in self.paths:
            raise Unreadable("there is no root")

    def _take(self, line: bytes) -> None:
        if found := _PATH.fullmatch(line):
            mode, uid, gid, size, major, minor, path = found.groups()
            self.paths[path or b"/"] = (int(mode, 16), int(uid), int(gid), int(size), int(major, 16), int(minor, 16))
        elif found := _HASH.fullmatch(line):
            escaped, value, path = found.groups()
            if escaped:
                path = re.sub(rb"\\[\\nr]", lambda pair: _ESCAPES[pair[0]], path)
            self._hashes[path] = value.decode()
        elif found := _NORMAL.fullmatch(line):
            self._normal[found[2]] = found[1].decode()
        elif found := _GONE.fullmatch(line):
            self._gone.add(found[1])
        elif found := _CAPABILITY.fullmatch(line):
            self._capabilities[found[1]] = found[2].decode(errors="surrogateescape").replace("+", "=")
        else:
            raise Unreadable(f"what is {line[:100]!r}?")

    def entry(self, path: bytes) -> list[Any] | None:
        """The entry of a path; None when it does not count."""
        mode, uid, gid, size, major, minor = self.paths[path]
        kind = stat.S_IFMT(mode)
        if kind not in _KINDS or path in self._gone or leaves_out(path):
            return None
        if path.endswith(b".pyc") and path[:-1] in self.paths:  # compiled from the source beside it
            return None
        shown = path.decode(errors="surrogateescape")
        if shown.startswith("/boot/"):
            shown = _MACHINE_ID.sub("MACHINE-ID", shown)
        entry: list[Any] = [shown, _KINDS[kind], f"{stat.S_IMODE(mode):04o}", uid, gid]
        if path in self._normal:
            entry.append(self._normal[path])
        elif kind == stat.S_IFREG:
            entry.append(_known(self._hashes, path) if size else "")
        elif kind == stat.S_IFLNK:
            entry.append(_known(self._targets, path))
        elif kind in _DEVICES:
            entry += [major, minor]
        if path in self._capabilities:
            entry.append(self._capabilities[path])
        return entry


def _known(among: Mapping[bytes, str], path: bytes) -> str:
    try:
        return among[path]
    except KeyError:
        raise Unreadable(f"{path.decode(errors='replace')} could not be read") from None


def _own(name: bytes) -> bytes:
    if not name.startswith(b"./"):
        raise Unreadable(f"what is {name[:100]!r}?")
    return name[1:]


def _target(name: bytes, said: bytes) -> str:
    """A link's target from stat's output: GNU's without quotes, busybox's in quotes."""
    for quote in (b"", b"'"):
        start = quote + name + quote + b" -> " + quote
        if said.startswith(start) and said.endswith(quote):
            return said[len(start) : len(said) - len(quote)].decode(errors="surrogateescape")
    raise Unreadable(f"where does {name.decode(errors='replace')} lead?")


def known_digest(packages: Sequence[Mapping[str, str]] | None, listing: bytes | None) -> tuple[str | None, str]:
    """-> the digest or None, and in that case the reason as a message."""
    if not listing:
        return None, "the content digest is not known: the file tree could not be listed"
    try:
        return digest(packages, listing), ""
    except Unreadable as error:
        return None, f"the content digest is not known: {error}"
