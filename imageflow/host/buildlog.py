"""One log file per build: lines with time and step, written at once, without secrets."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from imageflow.host.visible import visible

MASK = "******"
MOST = 64 << 20  # bytes of a log
_LAST_WORDS = 16 << 10  # bytes of each step that are written all the same, for they tell how it ended


@runtime_checkable
class Log(Protocol):
    """Takes lines of text and masks the known secrets in them."""

    def __call__(self, text: str, /) -> None:
        """Write each line of `text`."""

    def clean(self, text: str, /) -> str:
        """The text with every known secret masked."""


def cleaner(log: Callable[[str], None] | None) -> Callable[[str], str]:
    """The function with which `log` masks secrets; a plain function has none to mask."""
    return log.clean if isinstance(log, Log) else str


def log_path(folder: Path, build_id: str) -> Path:
    """The path of a build's log, below the folder of logs; it may not exist yet."""
    return folder / f"{build_id}.log"


class BuildLog:
    """Appends lines to a build's log; call it with a line of text.

    A worker that takes over appends to the same file. Every line is one `write` of a file opened in
    append mode, so a reader never sees half a line mixed into another.
    """

    def __init__(self, path: Path, secrets: Iterable[str] = (), most: int = MOST) -> None:
        """`most`: bytes; of what is said when the log has them, only a little of each step is kept."""
        self.path = path
        self.step = ""
        self._most = most
        self._full: str | None = None  # the step whose lines are left out
        self._words = 0  # bytes left of its last words
        self._file: io.FileIO | None = None
        self._lost = 0
        self._lock = threading.Lock()
        self._secrets: list[str] = []
        for secret in secrets:
            self.mask(secret)

    def mask(self, secret: str) -> None:
        """From now on, write six stars instead of `secret` (each of its lines separately)."""
        with self._lock:
            parts = {secret, *secret.splitlines()}
            known = {*self._secrets, *(part for part in parts if len(part.strip()) >= 3)}
            self._secrets = sorted(known, key=len, reverse=True)  # longest first: one may contain another

    def clean(self, text: str) -> str:
        """The text with every known secret masked."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def __call__(self, text: str) -> None:
        """Write each line of `text`."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._lock:
            for line in self.clean(text).splitlines():
                self._write(f"{stamp} [{self.step or 'build'}] {visible(line)}\n")

    def _write(self, line: str) -> None:
        """Write a line; a log that can't be written must not fail a build."""
        if self._lost:
            line = f"({self._lost} lines are missing here: they could not be written)\n{line}"
        try:
            if self._file is None:
                self._file = _opened(self.path)
            self._file.write(self._fitting(line.encode("utf-8", "backslashreplace"), self._file))
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def _fitting(self, data: bytes, file: io.FileIO) -> bytes:
        """What of a line has room."""
        if file.tell() + len(data) <= self._most:
            return data
        if self._full != self.step:
            self._full, self._words = self.step, _LAST_WORDS
            data = (
                f"(the log is full: most of step {self.step or 'build'} is left out; [builds] max_log)\n".encode()
                + data
            )
        self._words -= len(data)
        return data if self._words >= 0 else b""

    def close(self) -> None:
        """Close the file; a later line opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None


def _opened(path: Path) -> io.FileIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab", buffering=0)
    path.chmod(0o600)
    file.seek(0, os.SEEK_END)
    return file
