"""Folders that no longer than their process are needed: what a killed one left is removed by the next."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def folder(root: Path) -> Iterator[Path]:
    """A new folder below `root`, removed at the end of the block; raises OSError."""
    with _alone(root):
        path = root / secrets.token_hex(6)
        path.mkdir()
        descriptor = _locked(path)
    assert descriptor is not None
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def sweep(root: Path) -> list[Path]:
    """Remove what processes that are gone left below `root`; -> what it was. Raises OSError."""
    if not root.is_dir():
        return []
    removed = []
    with _alone(root):
        for path in sorted(path for path in root.iterdir() if path.is_dir()):
            if (descriptor := _locked(path)) is not None:
                shutil.rmtree(path)
                os.close(descriptor)
                removed.append(path)
    return removed


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Nobody looks at a folder between its making and its lock."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A lock on a folder, free again when its owner is gone, however it went; None: somebody has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
