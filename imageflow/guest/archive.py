"""A folder as a stream of tar: for a machine that has `tar` and nothing else."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from imageflow.errors import Refused

LAST = ".imageflow-whole"  # the last member: where it is, everything before it has arrived


class _Stream:
    """What tarfile writes to."""

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
    """Write everything in a folder as an archive: root's, in order of the names, times and modes kept.

    Raises Refused for what is neither a file nor a folder nor a symbolic link, OSError for what can't be read.
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
