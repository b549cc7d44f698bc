"""What a child process writes: read by threads as it comes, as lines of text or as bytes."""

from __future__ import annotations

import os
import re
import select
import threading
import time
from collections.abc import Callable
from typing import IO

from imageflow.errors import Exceeded

LINE_LIMIT = 64 * 1024  # bytes after which a line is split
MOST = 64 << 20  # bytes of output that are kept
_LINGER = 1.0  # seconds that processes left by the child may go on writing
_LINE_END = re.compile(rb"\r\n|[\r\n]")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_CONTROLS = dict.fromkeys((*range(9), *range(10, 32), 127), "\N{REPLACEMENT CHARACTER}")  # all but the tab


class Reader(threading.Thread):
    """Reads a child's stream to its end; a failing reader never blocks the child."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        super().__init__(name="child output", daemon=True)
        assert stream is not None
        self._file = stream.fileno()
        self._finishing = threading.Event()
        self._deadline = float("inf")
        self.error: BaseException | None = None
        self.start()

    def finish(self) -> None:
        """Take the available output, then stop, even if another process still holds the other end open."""
        self._deadline = time.monotonic() + _LINGER
        self._finishing.set()
        self.join()

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        while time.monotonic() < self._deadline:
            if not poll.poll(100):
                if self._finishing.is_set():
                    break
                continue
            data = os.read(self._file, 65536)
            if not data:
                break
            self._guarded(self._take, data)
        self._guarded(self._take, b"")

    def _guarded(self, take: Callable[[bytes], None], data: bytes) -> None:
        if self.error is None:
            try:
                take(data)
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for the child
                self.error = error

    def _take(self, data: bytes) -> None:
        """More of the output; b'' at its end."""
        raise NotImplementedError


class Lines:
    """Turns incoming bytes into text lines: no colours, no control characters, very long ones in pieces."""

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """More of the output; b'' at its end."""
        *lines, self._rest = _LINE_END.split(self._rest + data)
        if data.endswith(b"\r") and lines:
            self._rest = lines.pop() + b"\r"  # maybe half of a line end
        if not data:
            lines, self._rest = ([self._rest] if self._rest else []), b""
        for line in lines:
            self._emit(line)
        while len(self._rest) > LINE_LIMIT:
            self._emit(self._rest[:LINE_LIMIT])
            self._rest = self._rest[LINE_LIMIT:]

    def _emit(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE_LIMIT):
            text = line[start : start + LINE_LIMIT].decode("utf-8", "replace").rstrip("\r")
            self._sink(_COLOURS.sub("", text).translate(_CONTROLS))


class LinesReader(Reader):
    """Passes text lines on as they come."""

    def __init__(self, stream: IO[bytes] | None, sink: Callable[[str], None]) -> None:
        self._lines = Lines(sink)
        super().__init__(stream)

    def _take(self, data: bytes) -> None:
        self._lines.feed(data)


class BytesReader(Reader):
    """Keeps everything, up to a bound."""

    def __init__(self, stream: IO[bytes] | None, most: int, name: str) -> None:
        self._parts: list[bytes] = []
        self._left, self._most, self._name = most, most, name
        super().__init__(stream)

    def _take(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._parts.clear()
            raise Exceeded(f"{self._name} says more than {self._most >> 20} MiB")
        self._parts.append(data)

    def text(self) -> str:
        return b"".join(self._parts).decode("utf-8", "replace").removesuffix("\n")
