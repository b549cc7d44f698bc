"""The directory store in a folder, files to put into it, and processes that die at a given line of it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from imageflow import config
from imageflow.model import Artifact
from imageflow.stores.directory import DirectoryStore


def open_store(images: Path) -> DirectoryStore:
    return DirectoryStore(dataclasses.replace(config.load(state_dir=str(images.parent)), store_path=images))


def write(folder: Path, seed: bytes = b"a", size: int = 64 << 10) -> list[tuple[Path, Artifact]]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, content in (
        ("disk.raw", hashlib.sha256(seed).digest() * (size // 32)),
        ("list", b"bash\n"),
    ):
        (folder / name).write_bytes(content)
        made.append(
            (
                folder / name,
                Artifact(name, "raw", len(content), hashlib.sha256(content).hexdigest()),
            )
        )
    return made


def fork(work: Callable[[], Any], *, kill_at: int | None = None) -> int:
    """Run `work` in a process of its own; -> its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            if kill_at is not None:
                sys.settrace(_killer(kill_at))
            work()
            os._exit(0)
        finally:  # whatever it raised: this process must not go on as a second pytest
            traceback.print_exc()
            os._exit(1)
    return pid


def in_child(work: Callable[[], Any], *, kill_at: int | None = None) -> int:
    """Run `work` in a process of its own; -> its exit code, -9 if it was killed at its `kill_at`th line."""
    return os.waitstatus_to_exitcode(os.waitpid(fork(work, kill_at=kill_at), 0)[1])


def _killer(lines: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that ends this process at the given line of the store's code, like kill -9 would."""
    left = lines

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if "imageflow/stores/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return trace

    return trace
