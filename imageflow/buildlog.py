"""One log file per build: lines with time and step, complete as soon as written, without secrets."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable
from pathlib import Path

MASK = "******"


class BuildLog:
    """Appends lines to a build's log; call it with a line of text.

    A worker that takes over appends to the same file. Every line is one `write` of a file opened in
    append mode, so a reader never sees half a line mixed into another.
    """

    def __init__(self, path: Path, secrets: Iterable[str] = ()) -> None:
        self.path = path
        self.step = ""
        self._file: io.FileIO | None = None
        self._lost = 0
        self._lock = threading.Lock()
        self._secrets: list[str] = []
        for secret in secrets:
            self.mask(secret)

    def mask(self, secret: str) -> None:
        """From now on, write six stars where `secret` stands (each of its lines on its own)."""
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
                self._write(f"{stamp} [{self.step or 'build'}] {line}\n")

    def _write(self, line: str) -> None:
        """A log that can't be written must not be what fails a build."""
        if self._lost:
            line = f"({self._lost} lines are missing here: they could not be written)\n{line}"
        try:
            if self._file is None:
                self._file = _opened(self.path)
            self._file.write(line.encode("utf-8", "backslashreplace"))
        except OSError:
            self._lost += 1
        else:
            self._lost = 0

    def close(self) -> None:
        """A line written later opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None


def _opened(path: Path) -> io.FileIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab", buffering=0)
    path.chmod(0o640)
    return file
