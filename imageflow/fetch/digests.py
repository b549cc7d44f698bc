"""The digest of a local file, computed again only when the file has changed.

Cached by the file's device, inode, size, mtime and ctime; the ctime can't be set by a user. A file written
to within the last seconds is not cached yet: a second change within a clock tick would go unnoticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from imageflow.config import Config
from imageflow.errors import RecipeError
from imageflow.fetch.hashing import corrupt, hashed
from imageflow.host.control import Control
from imageflow.recipe.problems import path_name

_SETTLED = 2.0  # seconds; the coarsest clock of a file system
_SMALL = 1 << 20  # bytes; reading a smaller file is faster than a look-up
FOLDER = "digests"


def local(
    path: Path,
    sha256: str | None = None,
    *,
    config: Config,
    control: Control,
    progress: Callable[[float], None] = lambda done: None,
) -> str:
    """SHA-256 of a regular file; raises Corrupt, naming both, when it differs from a given `sha256`.

    Raises RecipeError when the file is missing or can't be read.
    """
    found = _local(path, config, control, progress)
    if sha256 is not None and found != sha256.strip().lower():
        raise corrupt(path_name(path), sha256.strip().lower(), found)
    return found


def _local(path: Path, config: Config, control: Control, progress: Callable[[float], None]) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # do not block on a FIFO
    except OSError as error:
        raise RecipeError(f"{path_name(path)} can't be read: {error.strerror}", hint="check the path") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RecipeError(f"{path_name(path)} is not a regular file", hint="name a file")
        memory = config.cache_dir / FOLDER / hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
        if status.st_size >= _SMALL and (known := _recall(memory, status)):
            return known
        began = time.time()
        found = hashed(descriptor, control, progress).hexdigest()
        settled = max(status.st_mtime, status.st_ctime) < began - _SETTLED
        if status.st_size >= _SMALL and settled and _signs(os.fstat(descriptor)) == _signs(status):
            _remember(memory, status, found)
        return found
    except OSError as error:
        raise RecipeError(f"{path_name(path)} can't be read: {error.strerror}", hint="check the disk") from None
    finally:
        os.close(descriptor)


def _signs(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _recall(memory: Path, status: os.stat_result) -> str | None:
    try:
        known = json.loads(memory.read_bytes())
        if known["file"] != _signs(status):
            return None
        with contextlib.suppress(OSError):
            os.utime(memory)  # most recently used: collected last
        return str(known["sha256"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(memory: Path, status: os.stat_result, digest: str) -> None:
    """Cache the digest; without write permission the file is read again next time."""
    half = memory.with_name(f".{memory.name}.{os.getpid()}.{id(status)}")
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(json.dumps({"file": _signs(status), "sha256": digest}))
        os.replace(half, memory)
    with contextlib.suppress(OSError):
        half.unlink(missing_ok=True)
