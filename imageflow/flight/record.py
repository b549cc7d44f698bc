"""Keeps an unattended machine's console and screenshots, beside the build's log."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from pathlib import Path

_KEPT = 50  # screenshots: the oldest are removed first
_COMPARED = 4096  # bytes at the start of a console that identify a machine


class Record:
    """`folder`/NAME.console.log and `folder`/NAME.SECONDS.png; they outlive the machine.

    When another machine of the same name starts (the first one was deleted), the earlier console is kept as
    NAME.before.log. A failed write only leaves a gap; it is no reason to fail a build.
    """

    def __init__(self, folder: Path, name: str, *, every: float = 0.0, most: int = 1 << 25) -> None:
        """`every`: seconds between two screenshots; `most`: bytes of the console, and of all screenshots."""
        self._most = most
        self._folder = folder
        self._name = name
        self._every = every
        self._next = time.monotonic()
        self._last = b""

    def console(self, data: bytes, offset: int) -> None:
        """Keep console output from this byte on; output already kept by another worker is not kept twice."""
        data = data[: max(0, self._most - offset)]
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
        """Take one if it is due, and keep it if it differs from the last one."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._keep(take())

    def end(self, take: Callable[[], bytes | None]) -> None:
        """Take the last one, whether due or not."""
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
            size = 0
            for number, file in enumerate(reversed(screenshots(self._folder, self._name))):
                size += file.stat().st_size
                if number and (number >= _KEPT or size > self._most):
                    file.unlink(missing_ok=True)


def _continues(file: Path, data: bytes) -> bool:
    """Whether this is the start of the console in the file."""
    with file.open("rb") as kept:
        begin = kept.read(_COMPARED)
    length = min(len(begin), len(data))
    return begin[:length] == data[:length]


def masked(data: bytes, clean: Callable[[str], str]) -> bytes:
    """Console output with secrets masked by `clean`, of the same length in bytes."""
    text = data.decode("utf-8", "surrogateescape")
    if (cleaned := clean(text)) == text:
        return data
    return cleaned.encode("utf-8", "surrogateescape")[: len(data)].ljust(len(data))


def screenshots(folder: Path, name: str = "*") -> list[Path]:
    """The kept screenshots, oldest first."""
    return sorted(
        folder.glob(f"{name}.*.png"),
        key=lambda file: float(file.name.rsplit(".", 3)[-3] + "." + file.name.rsplit(".", 3)[-2]),
    )
