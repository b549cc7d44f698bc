"""The folder of downloaded files: whole ones under their digest, read-only; parts beside them.

The digest is a SHA-256 where we choose, and what Glance knows of its images.

A part is its own lock: whoever holds it writes. It is renamed when it is whole, so a name without
suffix is always a whole file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import Refused, Unavailable
from imageflow.fetch import digests

_LOOK = 0.25  # seconds between two looks at another one's lock: flock can't be waited for with a deadline
_DIGITS = frozenset("0123456789abcdef")
_LENGTHS = (64, 96, 128)  # digits: SHA-256, SHA-384, SHA-512


@dataclass(slots=True)
class Part:
    """What is there of a file, locked by us."""

    path: Path
    descriptor: int
    whole: Path  # where it belongs

    @property
    def origin(self) -> dict[str, str]:
        """Where its bytes came from: 'url' (as a digest) and 'validator', what If-Range may say."""
        try:
            known = json.loads(self._note.read_bytes())
            return {str(key): str(value) for key, value in known.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    @origin.setter
    def origin(self, value: dict[str, str]) -> None:
        with contextlib.suppress(OSError):  # a full disk will show soon enough
            self._note.write_text(json.dumps(value))

    @property
    def _note(self) -> Path:
        return self.path.with_suffix(".from")

    def drop(self) -> None:
        """Remove it: these bytes are of no use."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def finish(self) -> None:
        """It is whole: on the disk, read-only, under its name."""
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
    """The downloads of this machine; safe for any number of processes and threads."""

    def __init__(self, config: Config) -> None:
        self.folder = folder_of(config)

    def find(self, digest: str) -> Path | None:
        """A whole file, marked as used now; None when there is none."""
        path = self._whole(digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except PermissionError:  # another user's: it is collected by when it came
            return path if path.exists() else None
        return path

    def get(self, digest: str) -> Path:
        """`find`, right after it came."""
        path = self.find(digest)
        if path is None:
            raise Unavailable(f"{self._whole(digest)} was removed while it was used", hint="try again")
        return path

    @contextlib.contextmanager
    def part(self, digest: str, control: Control, log: Callable[[str], None]) -> Iterator[Part | None]:
        """The part of a file, locked, maybe empty; None when the file is whole by now. Waits for who holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = self._whole(digest)
        path = self.folder / f"{digest}.part"
        told = False
        while not whole.exists():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if _locked(descriptor) and _still_at(path, descriptor):
                    part = Part(path, descriptor, whole)
                    if whole.exists():  # it was renamed between our two looks, and we have made a new part
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
    """Where the downloads are."""
    return config.cache_dir / "downloads"


def collect(config: Config, max_age: float, max_size: float, keep: Collection[str] = ()) -> list[Path]:
    """Remove files not used for `max_age` seconds, then the longest unused until all are within `max_size` bytes.

    Never those whose digest is in `keep`, nor a part that somebody writes. Parts and remembered digests
    go by age alone. -> what was removed. Whoever has a removed file open can read it to its end.
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
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not _locked(descriptor) or not _still_at(path, descriptor):
            return False
        Part(path, descriptor, path.with_suffix("")).drop()
        return True
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_at(path: Path, descriptor: int) -> bool:
    """Whether the file that we have locked is the one with this name: it may have been renamed or removed before."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False
