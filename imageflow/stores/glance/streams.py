"""Images as files: read in pieces with a hash check, and written with holes for zeros."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

from imageflow.errors import Corrupt
from imageflow.model import Artifact

_BLOCK = 1 << 16  # bytes; zeros of this length become a hole


class Stream(io.RawIOBase):
    """The pieces of an image as a file that is read once from the start."""

    def __init__(self, pieces: Iterator[bytes], artifact: Artifact) -> None:
        self._pieces, self._artifact = pieces, artifact
        self._left = b""
        self._sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the next piece, possibly only in part."""
        if not self._left:
            self._left = next(self._pieces, b"")
            self._sha256.update(self._left)
            if not self._left and self._sha256.hexdigest() != self._artifact.digest:
                raise Corrupt(f"{self._artifact.name} is not what was stored: its SHA-256 differs")
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        """Give the connection back."""
        if not self.closed and (close := getattr(self._pieces, "close", None)) is not None:
            close()
        super().close()


class Sparse:
    """Writes a file but leaves holes for runs of zeros; finally truncates it at the write position."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.seek, self.truncate = file.seek, file.truncate

    def write(self, piece: bytes) -> None:
        for start in range(0, len(piece), _BLOCK):
            block = piece[start : start + _BLOCK]
            if block.count(0) == len(block):
                self._file.seek(len(block), io.SEEK_CUR)
                continue
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) :]
