"""How much a download may bring, and how much of the disk it leaves free: looked at before it begins and while it grows."""

from __future__ import annotations

import os
from pathlib import Path

from imageflow.config import Config
from imageflow.errors import NoSpace, TooLarge

_GIB = 1 << 30
_SHARE = 20  # of a small disk at most this part stays free


class Room:
    """The room for one file, or one folder."""

    def __init__(self, config: Config, name: str, folder: Path, most: float | None = None, option: str = "") -> None:
        """`name`: what comes, for messages; `most`: GiB, otherwise [downloads] max_size, with the option to name."""
        self._name = name
        self._folder = folder
        self._most = int((config.downloads.max_size if most is None else most) * _GIB)
        self._option = option or "[downloads] max_size"
        self._min_free = int(config.downloads.min_free * _GIB)

    def expect(self, total: int, have: int = 0) -> None:
        """It will have so many bytes, of which some are here. Raises TooLarge, NoSpace."""
        if total > self._most:
            raise self.too_large(f"it has {total / _GIB:.2f} GiB")
        free = self.free()
        if total - have > free:
            raise self.none_left(
                f"{(total - have) / _GIB:.2f} GiB are missing, {max(0, free) / _GIB:.2f} GiB are free for it"
            )

    def grow(self, size: int, more: int = 1) -> None:
        """It has so many bytes, of which `more` are about to be written. Raises TooLarge, NoSpace."""
        if size > self._most:
            raise self.too_large("more is still coming")
        if self.free() < more:
            raise self.none_left(f"it has {size / _GIB:.2f} GiB by now")

    def free(self) -> int:
        """Bytes that it may still take."""
        room = os.statvfs(self._folder)
        spare = min(self._min_free, room.f_blocks * room.f_frsize // _SHARE)
        return room.f_bavail * room.f_frsize - spare

    def too_large(self, why: str) -> TooLarge:
        """The error for more than is allowed."""
        return TooLarge(
            f"{self._name} is larger than {self._most / _GIB:.4g} GiB: {why}",
            hint=f"check the address, or raise {self._option}",
        )

    def none_left(self, why: str) -> NoSpace:
        """The error for a disk that is full."""
        return NoSpace(
            f"no space left in {self._folder} for {self._name}: {why}",
            hint="free some space, then resume the build; [downloads] min_free stays free",
        )
