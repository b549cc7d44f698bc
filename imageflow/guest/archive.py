"""A folder as a tar stream, for a machine that has only `tar`."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from imageflow.errors import Refused

LAST = ".imageflow-whole"  # the last member: its presence proves that everything before it arrived


class _Stream:
    """The file object that tarfile writes to."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def write(self, data: bytes) -> int:
        self._write(data)
        return len(data)

    def read(self, _size: int) -> bytes:
        raise NotImplementedError

    def seek(self, _offset: int) -> int:
        raise NotImplementedError

    def tell(self) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass


def pack(folder: Path, write: Callable[[bytes], None]) -> None:
    """Write a folder's content as an archive, owned by root, sorted by name, times and modes kept.

    Raises Refused for anything but a file, folder or symbolic link, OSError for what can't be read.
    """
    stream = _Stream(write)
    with tarfile.open(mode="w|", fileobj=stream, format=tarfile.GNU_FORMAT, bufsize=1 << 18) as archive:
        for path in _walk(folder):
            member = archive.gettarinfo(path, str(path.relative_to(folder)))
            if member is None or not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
                raise Refused(f"{path} is neither a file nor a folder", hint="only those can be copied")
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            if member.islnk():
                member.type, member.linkname, member.size = tarfile.REGTYPE, "", path.stat().st_size
            if member.isreg():
                with path.open("rb") as file:
                    archive.addfile(member, file)
            else:
                archive.addfile(member)
        archive.addfile(tarfile.TarInfo(LAST))


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
