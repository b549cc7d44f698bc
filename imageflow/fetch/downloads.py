"""The folder of downloaded files: complete ones under their digest, read-only; partial ones beside them.

The digest is a SHA-256, except for images in Glance, where it is Glance's own hash.

A part is its own lock: only its holder writes. It is renamed when complete, so a name without suffix is
always a complete file.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from imageflow.config import Config
from imageflow.errors import Refused, Unavailable
from imageflow.fetch import digests
from imageflow.host import locks
from imageflow.host.control import Control

_LOOK = 0.25  # seconds between two looks at a lock held by another process
_DIGITS = frozenset("0123456789abcdef")
_LENGTHS = (64, 96, 128)  # digits: SHA-256, SHA-384, SHA-512


@dataclass(slots=True)
class Part:
    """The downloaded part of a file, locked by us."""

    path: Path
    descriptor: int
    whole: Path  # its final path

    @property
    def origin(self) -> dict[str, str]:
        """The origin of its bytes: 'url' (as a digest) and 'validator', for If-Range."""
        try:
            known = json.loads(self._note.read_bytes())
            return {str(key): str(value) for key, value in known.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    @origin.setter
    def origin(self, value: dict[str, str]) -> None:
        with contextlib.suppress(OSError):  # a full disk shows up soon enough
            self._note.write_text(json.dumps(value))

    @property
    def _note(self) -> Path:
        return self.path.with_suffix(".from")

    def drop(self) -> None:
        """Remove it: its bytes are useless."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self) -> None:
        """Turn the complete part into the final file, durable and read-only."""
        os.fchmod(self.descriptor, 0o444)
        os.fsync(self.descriptor)
        os.utime(self.descriptor)
        os.rename(self.path, self.whole)
        self._note.unlink(missing_ok=True)
        folder = os.open(self.whole.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Downloads:
    """The downloads of this host; safe for any number of processes and threads."""

    def __init__(self, config: Config) -> None:
        self.folder = folder_of(config)

    def find(self, digest: str) -> Path | None:
        """A complete file, marked as used now; None when there is none."""
        path = self._whole(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except PermissionError:  # another user's: it is collected by its download time
            return path if path.exists() else None
        return path

    def get(self, digest: str) -> Path:
        """`find`, right after the download."""
        path = self.find(digest)
        if path is None:
            raise Unavailable(f"{self._whole(digest)} was removed while it was used", hint="try again")
        return path

    @contextlib.contextmanager
    def part(self, digest: str, control: Control, log: Callable[[str], None]) -> Iterator[Part | None]:
        """The part of a file, locked, maybe empty; None when the file is complete by now. Waits for the lock."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = self._whole(digest)
        path = self.folder / f"{digest}.part"
        told = False
        while not whole.exists():
            if (descriptor := locks.take(path, mode=0o644)) is not None:
                try:
                    part = Part(path, descriptor, whole)
                    if whole.exists():  # it was renamed in between, and we have made a new part
                        part.drop()
                        continue
                    yield part
                    return
                finally:
                    os.close(descriptor)
            if not told:
                told = True
                log("another build downloads the same file: waiting for it")
            control.wait(_LOOK)
        yield None

    def _whole(self, digest: str) -> Path:
        if len(digest) not in _LENGTHS or not _DIGITS.issuperset(digest):
            raise Refused(f"{digest[:80]!r} is not a digest", hint="a SHA-256 has 64 hexadecimal digits")
        return self.folder / digest


def folder_of(config: Config) -> Path:
    """The folder of downloads."""
    return config.cache_dir / "downloads"


def collect(config: Config, max_age: float, max_size: float, keep: Collection[str] = ()) -> list[Path]:
    """Remove files unused for `max_age` seconds, then the least recently used until all fit into `max_size` bytes.

    Never those whose digest is in `keep`, nor a part being written. Parts and cached digests are removed by
    age alone. -> the removed files. A removed file that is open can still be read to its end.
    """
    oldest = time.time() - max_age
    whole: list[tuple[float, int, Path]] = []
    removed: list[Path] = []
    for file in _files(folder_of(config)):
        with contextlib.suppress(FileNotFoundError):
            status = file.stat()
            if file.suffix == ".part":
                if status.st_mtime < oldest and _drop_part(file):
                    removed.append(file)
            elif not file.suffix:
                whole.append((status.st_mtime, status.st_blocks * 512, file))
    left = sum(size for _, size, _ in whole)
    for used, size, file in sorted(whole):
        if file.name not in keep and (used < oldest or left > max_size):
            file.unlink(missing_ok=True)
            removed.append(file)
            left -= size
    for memory in _files(config.cache_dir / digests.FOLDER):
        with contextlib.suppress(FileNotFoundError):
            if memory.stat().st_mtime < oldest:
                memory.unlink()
    return removed


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _drop_part(path: Path) -> bool:
    if (descriptor := locks.take(path, make=False)) is None:
        return False
    try:
        Part(path, descriptor, path.with_suffix("")).drop()
        return True
    finally:
        os.close(descriptor)
