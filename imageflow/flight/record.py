"""Keeps what was seen of an unattended machine: its console, and screenshots, beside the build's log."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

_KEPT = 50  # screenshots: the oldest ones go first
_COMPARED = 4096  # bytes at the beginning of a console by which a machine is known again


class Record:
    """`folder`/NAME.console.log and `folder`/NAME.SECONDS.png; they outlive the machine.

    When another machine of the same name begins (the first one was deleted), the console of the one before
    is kept as NAME.before.log. What can't be written is missing later, and is no reason to fail a build.
    """

    def __init__(self, folder: Path, name: str, *, every: float = 0.0) -> None:
        """`every`: seconds between two screenshots."""
        self._folder = folder
        self._name = name
        self._every = every
        self._next = time.monotonic()
        self._last = b""

    def console(self, data: bytes, offset: int) -> None:
        """What is on the console from this byte on; what another worker has kept already is not kept twice."""
        if not data:
            return
        file = self._folder / f"{self._name}.console.log"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            if offset == 0 and file.exists() and not _continues(file, data):
                file.replace(self._folder / f"{self._name}.before.log")
            with file.open("r+b" if file.exists() else "w+b") as out:
                out.seek(offset)
                out.write(data)

    def screenshot(self, take: Callable[[], bytes | None]) -> None:
        """Take one, if it is time, and keep it, if it shows something else than the last one."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._keep(take())

    def end(self, take: Callable[[], bytes | None]) -> None:
        """The last one, whenever that is."""
        self._keep(take())

    def _keep(self, picture: bytes | None) -> None:
        digest = hashlib.sha256(picture or b"").digest()
        if picture is None or digest == self._last:
            return
        self._last = digest
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            new = self._folder / f".{self._name}.png"
            new.write_bytes(picture)
            new.rename(self._folder / f"{self._name}.{time.time():.6f}.png")
            for old in screenshots(self._folder, self._name)[:-_KEPT]:
                old.unlink(missing_ok=True)


def _continues(file: Path, data: bytes) -> bool:
    """Whether this is the beginning of the console that the file holds."""
    with file.open("rb") as kept:
        begin = kept.read(_COMPARED)
    length = min(len(begin), len(data))
    return begin[:length] == data[:length]


def masked(data: bytes, log: Callable[[str], None]) -> bytes:
    """Console output without the secrets that a build's log masks; as many bytes as it was."""
    clean: Callable[[str], str] = getattr(log, "clean", str)
    text = data.decode("utf-8", "surrogateescape")
    if (cleaned := clean(text)) == text:
        return data
    return cleaned.encode("utf-8", "surrogateescape")[: len(data)].ljust(len(data))


def screenshots(folder: Path, name: str = "*") -> list[Path]:
    """Those that were kept, oldest first."""
    return sorted(
        folder.glob(f"{name}.*.png"),
        key=lambda file: float(file.name.rsplit(".", 3)[-3] + "." + file.name.rsplit(".", 3)[-2]),
    )
