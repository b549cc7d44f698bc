"""Keeps the state folder from the other users of this host: all but the images in it, which are meant to be read."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_OURS = frozenset(
    (
        "builds",
        "cache",
        "checkouts",
        "images",
        "install-keys",
        "layers",
        "logs",
        "machines",
        "publishing",
        "records",
        "reserve",
    )
)
_DATABASE = "imageflow.db"  # and SQLite's files beside it
_OTHERS = 0o077
_PUBLISHED = 0o755


def seal(state: Path, published: Path) -> None:
    """Take the rights of others from what is directly in an existing state folder, also if an older version made it.

    `published`: the folder of images. If it is in the state folder, others may pass through that, but not list it.
    What belongs to another user stays as it is, and what is not ours: somebody may keep the state in a folder of theirs.
    """
    inside = published.is_relative_to(state)
    if not state.is_dir():
        return
    way = state / published.relative_to(state).parts[0] if inside and published != state else None
    strange = False
    for entry in state.iterdir():
        if entry == way:
            continue
        if entry.name not in _OURS and not entry.name.startswith(_DATABASE):
            strange = True
        elif not entry.is_symlink():
            _set(entry, stat.S_IMODE(entry.lstat().st_mode) & ~_OTHERS)
    if not strange:
        _set(state, 0o711 if inside else 0o700)


def publish(folder: Path) -> None:
    """Let everybody read a folder that was just made, whatever the umask."""
    folder.chmod(_PUBLISHED)


@contextlib.contextmanager
def umask() -> Iterator[None]:
    """What this process makes is its user's alone; children have their own umask (process.py)."""
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def _set(path: Path, mode: int) -> None:
    with contextlib.suppress(PermissionError, FileNotFoundError):
        status = path.lstat()
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)
