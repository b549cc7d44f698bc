"""Reads a build's log while it is written, for `build log --follow` and the views of --wait."""

from __future__ import annotations

import codecs
import os
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING

from imageflow.errors import NotFound
from imageflow.host.visible import visible
from imageflow.model import BuildState

if TYPE_CHECKING:
    from imageflow.cli.app import App
    from imageflow.model import Build
    from imageflow.service import Service

CHUNK = 1 << 20
LOOK = 0.2  # seconds between two looks at the file: a file can't be awaited
ASK = 1.0  # seconds between two queries for the build's state


class Growing:
    """A growing file that may not exist yet and may be replaced; `read` returns its new bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def read(self) -> bytes:
        """The next bytes, at most 1 MiB; b'' when there are none now."""
        if self._file is None or self._replaced():
            self.close()
            try:
                self._file = self.path.open("rb")
            except FileNotFoundError:
                return b""
        return self._file.read(CHUNK)

    def skip_to_last(self, lines: int) -> None:
        """Seek to the start of the last `lines` lines."""
        start = last_lines_offset(self.path, lines)
        self._file = self.path.open("rb") if self.path.exists() else None
        if self._file is not None:
            self._file.seek(start)

    def _replaced(self) -> bool:
        assert self._file is not None
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False  # the open file can still be read to its end
        here = os.fstat(self._file.fileno())
        return there.st_ino != here.st_ino or there.st_size < self._file.tell()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def last_lines_offset(path: Path, lines: int) -> int:
    """The offset of the last `lines` lines of a file; 0 when it has fewer, or does not exist."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        end = file.seek(0, os.SEEK_END)
        position, wanted = end, lines + 1
        while position > 0:
            start = max(0, position - CHUNK)
            file.seek(start)
            block = file.read(position - start)
            if position == end and not block.endswith(b"\n"):
                wanted -= 1  # a last line without a newline counts
            found = len(block)
            while wanted > 0 and (found := block.rfind(b"\n", 0, found)) >= 0:
                wanted -= 1
            if wanted == 0:
                return start + found + 1
            position = start
    return 0


class Shown:
    """Writes a log for people's eyes."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> None:
        """The next bytes; half a character waits for its rest."""
        self._out.write(visible(self._decoder.decode(data), lines=True).encode("utf-8", "backslashreplace"))
        self._out.flush()


class Tail:
    """The last lines of a growing log, for a view that is redrawn."""

    def __init__(self, path: Path, lines: int) -> None:
        self._file = Growing(path)
        self._file.skip_to_last(lines)
        self._lines: deque[str] = deque(maxlen=lines)
        self._rest = b""

    def lines(self) -> list[str]:
        """The current last lines, without time stamps."""
        while data := self._file.read():
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(line.decode("utf-8", "replace") for line in whole[-(self._lines.maxlen or 0) :])
        return list(self._lines)

    def close(self) -> None:
        self._file.close()


def copy_log(app: App, service: Service, build: Build, *, follow: bool, lines: int | None) -> None:
    """Write the log to stdout; with `follow`, until the build has ended. Raises NotFound."""
    path = service.log_path(build.id)
    if not path.exists() and (not follow or build.state.ended):
        raise NotFound(f"build {build.id} has no log here", hint=_where(service, build))
    growing = Growing(path)
    if lines is not None:
        growing.skip_to_last(lines)
    out = Shown(app.stdout.buffer)
    try:
        if not follow:
            while data := growing.read():
                out.write(data)
        else:
            _follow(app, service, build, growing, out)
    finally:
        growing.close()


def _follow(app: App, service: Service, build: Build, growing: Growing, out: Shown) -> None:
    told: BuildState | None = None
    asked = time.monotonic() - ASK
    while True:
        data = growing.read()
        if data:
            out.write(data)
            continue
        if build.state.ended:
            return
        now = time.monotonic()
        if now - asked >= ASK:
            build, asked = service.build(build.id), now
            if build.state is not told and build.state in (BuildState.PAUSED, BuildState.QUEUED):
                app.note(_waiting(build))
            told = build.state
            continue  # read everything written before the end before stopping
        time.sleep(LOOK)


def _waiting(build: Build) -> str:
    if build.state is BuildState.QUEUED:
        return f"imageflow: build {build.id} is queued"
    return (
        f"imageflow: build {build.id} is paused: {build.error}\n"
        f"(imageflow build resume {build.id}, or imageflow build abort {build.id})"
    )


def _where(service: Service, build: Build) -> str:
    if build.host and build.host != service.config.host:
        return f"it runs on {build.host}: the log is there, in {service.log_path(build.id)}"
    if not build.state.ended:
        return f"it is {build.state}: '--follow' waits for its log"
    if build.started is not None:
        return f"{service.log_path(build.id)} was removed"
    return "it ended before its first step"
