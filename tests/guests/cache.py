"""Things that are slow to make are made once for all tests and processes, in a folder outside the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

_KEPT = 86400.0  # seconds since the last use


def folder() -> Path:
    """The folder where they are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("IMAGEFLOW_TEST_CACHE") or f"{cache}/imageflow-tests").expanduser()


def digest(files: Iterable[Path], words: Iterable[str] = ()) -> str:
    """16 hex digits over the content of files (of all in a folder) and some words."""
    whole = hashlib.sha256()
    for each in sorted(files):
        for path in sorted(p for p in each.rglob("*") if p.is_file()) if each.is_dir() else [each]:
            if path.suffix != ".pyc":
                whole.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    for word in words:
        whole.update(f"{word}\0".encode())
    return whole.hexdigest()[:16]


def made(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, once for this key; folders of the same name that were not used for long are removed.

    Tests of another checkout may be using others at the same time.
    """
    kept = folder()
    kept.mkdir(parents=True, exist_ok=True)
    place = kept / f"{name}-{key}"
    if _used(place):
        return place
    with open(kept / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _used(place):
            return place
        for left in kept.glob(f".{name}-new-*"):
            shutil.rmtree(left)
        new = Path(tempfile.mkdtemp(prefix=f".{name}-new-", dir=kept))
        new.chmod(0o755)
        make(new)
        for old in kept.glob(f"{name}-*"):
            if len(old.name) == len(place.name) and old.stat().st_mtime < time.time() - _KEPT:
                shutil.rmtree(old)
        new.rename(place)
    return place


def _used(place: Path) -> bool:
    """Whether the folder is there; if so, its last use is now."""
    try:
        os.utime(place)
    except FileNotFoundError:
        return False
    return True
