"""Keeps what was seen of an unattended machine: its console, and screenshots, beside the build's log."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

_KEPT = 50  # screenshots


class Record:
    """`folder`/NAME.console.log and `folder`/NAME.SECONDS.png; they outlive the machine."""

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
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{self._name}.console.log").open("r+b" if self._console_exists() else "w+b") as file:
            file.seek(offset)
            file.write(data)

    def screenshot(self, take: Callable[[], bytes | None]) -> None:
        """Take one, if it is time, and keep it, if it shows something else than the last one."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every
            self._keep(take())

    def end(self, take: Callable[[], bytes | None]) -> None:
        """The last one, whenever that is."""
        self._keep(take())

    def _console_exists(self) -> bool:
        return (self._folder / f"{self._name}.console.log").exists()

    def _keep(self, picture: bytes | None) -> None:
        digest = hashlib.sha256(picture or b"").digest()
        if picture is None or digest == self._last:
            return
        self._last = digest
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{self._name}.{time.time():.2f}.png").write_bytes(picture)
        for old in screenshots(self._folder, self._name)[:-_KEPT]:
            old.unlink(missing_ok=True)


def screenshots(folder: Path, name: str = "*") -> list[Path]:
    """Those that were kept, oldest first."""
    return sorted(
        folder.glob(f"{name}.*.png"),
        key=lambda file: float(file.name.rsplit(".", 3)[-3] + "." + file.name.rsplit(".", 3)[-2]),
    )
