"""Where images live: the protocol that every store driver fulfils (entry points `imageflow.stores`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from imageflow.control import Control
from imageflow.model import Artifact


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image version in one store."""

    store: str  # name of the driver
    digest: str  # SHA-256 of the primary artifact
    path: str  # where the primary artifact is, as a user would say it
    artifacts: tuple[Artifact, ...]


class Store(Protocol):
    """A place for image versions, addressed by the digest of their primary artifact."""

    name: str

    def find(self, digest: str) -> ImageRef | None:
        """The version with this digest, whole, or None."""

    def add(
        self, files: Sequence[tuple[Path, Artifact]], *, build_id: str, control: Control, move: bool = False
    ) -> ImageRef:
        """Store a version: its files, the primary one first; again is fine, and finds the first one.

        A reader sees all of it or nothing. `move`: the files may be renamed into the store.
        """

    def open(self, ref: ImageRef, artifact: str | None = None) -> IO[bytes]:
        """Read an artifact, the primary one by default."""

    def verify(self, digest: str, control: Control, progress: Callable[[float], None] = ...) -> None:
        """Read every artifact and compare; raises Corrupt, naming the file, or NotFound."""

    def delete(self, digest: str) -> None:
        """Remove a version; absent is fine."""

    def list(self, build_id: str | None = None) -> list[ImageRef]:
        """What is there (made by this build); half-made versions are not."""

    def tidy(self, alive: Callable[[str], bool]) -> list[str]:
        """Remove half-made versions of builds that are not `alive(build_id)`; -> what was removed."""
