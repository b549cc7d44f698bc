"""Folders needed only as long as their process: leftovers of a killed one are removed by the next."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from imageflow.host import locks


@contextlib.contextmanager
def folder(root: Path) -> Iterator[Path]:
    """A new folder below `root`, removed at the end of the block; raises OSError."""
    with _alone(root):
        path = root / secrets.token_hex(6)
        path.mkdir()
        descriptor = locks.take(path)
    assert descriptor is not None
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def sweep(root: Path) -> list[Path]:
    """Remove folders of dead processes below `root`; -> the removed ones. Raises OSError."""
    if not root.is_dir():
        return []
    removed = []
    with _alone(root):
        for path in sorted(path for path in root.iterdir() if path.is_dir()):
            if (descriptor := locks.take(path)) is not None:
                shutil.rmtree(path)
                os.close(descriptor)
                removed.append(path)
    return removed


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock that keeps other processes from seeing a folder before it is locked."""
    root.mkdir(parents=True, exist_ok=True)
    with locks.alone(root / ".lock"):
        yield
