"""A file being sent to Glance: hashed while it is sent, and compared with what arrived."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from imageflow.errors import Corrupt, Unavailable
from imageflow.host.control import Control

if TYPE_CHECKING:
    from imageflow.openstack.image import GlanceImage

_CHUNK = 1 << 20


class Sent:
    """A file that is sent, maybe more than once, and the known hashes of its content."""

    def __init__(self, file: Path, sha256: str | None, control: Control, progress: Callable[[float], None]) -> None:
        self.file, self.control = file, control
        self._wanted, self._progress = sha256, progress
        self._body: Body | None = None
        self._known: dict[str, str] = {}  # algorithm -> hash of the file

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.file.stat().st_size

    @contextlib.contextmanager
    def opened(self) -> Iterator[Body]:
        """The file from its beginning."""
        with self.file.open("rb", buffering=0) as raw:
            self._body = Body(raw, self.size, self.control, self._progress)
            yield self._body

    @property
    def all_read(self) -> bool:
        """Whether the receiver read the file to its end."""
        return self._body is not None and self._body.sent == self.size

    def finish(self) -> None:
        """Check a finished transfer: raises Corrupt when the file is not the expected one, Unavailable when it is incomplete."""
        body = self._body
        assert body is not None
        if body.sent != self.size:
            raise Unavailable(f"{body.sent} of the {self.size} bytes of {self.file} were asked for")
        self._known = {"sha256": body.sha256.hexdigest(), "sha512": body.sha512.hexdigest()}
        if self._wanted is not None and self._wanted != self._known["sha256"]:
            raise Corrupt(f"{self.file} is not what it was: its SHA-256 is {self._known['sha256'][:12]}…")

    def is_in(self, image: GlanceImage) -> bool:
        """Whether an image has this content, as far as can be known."""
        if not self.file.exists():
            return True  # it was sent before and is no longer needed
        if image.data.get("size") != self.size:
            return False
        algorithm, _, value = image.hash.partition(":")
        if algorithm not in hashlib.algorithms_available:
            return True  # its size matches, and more can't be known
        if algorithm not in self._known:
            self._known[algorithm] = self._read(algorithm)
        return value == self._known[algorithm]

    def _read(self, algorithm: str) -> str:
        digest = hashlib.new(algorithm)
        with self.file.open("rb") as reader:
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
                self.control.check()
        return digest.hexdigest()


class Body:
    """An open file that is hashed while it is sent; counts the bytes read."""

    def __init__(self, raw: IO[bytes], size: int, control: Control, progress: Callable[[float], None]) -> None:
        self._raw, self._control, self._progress = raw, control, progress
        self._size, self.sent = size, 0
        self.sha256, self.sha512 = hashlib.sha256(), hashlib.sha512()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        self._control.check()
        data = self._raw.read(size)
        self.sha256.update(data)
        self.sha512.update(data)
        self.sent += len(data)
        self._progress(self.sent / self._size if self._size else 1.0)
        return data
