"""A few MiB kept in reserve, so that on a full disk there is room to record that the disk is full.

Given up only for what a build must write: heartbeats and looks for work come again, and while a step still fills the disk,
room that is made for them is gone at once.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

SIZE = 8 << 20  # bytes; pausing a build needs some KiB, SQLite's log of it some pages more


class Reserve:
    """A file of real blocks beside the embedded database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def keep(self) -> None:
        """Create the file, if there is room for it and as much again; otherwise do without."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size >= SIZE:
                return
            room = os.statvfs(self._path.parent)
            if room.f_bavail * room.f_frsize < 2 * SIZE:
                return
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, SIZE)

    def give_up(self) -> bool:
        """Free the space; -> whether there was any to free."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
