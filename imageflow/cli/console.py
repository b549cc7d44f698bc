"""Makes the output of a serial console fit for a terminal: no escapes, no cursor movements, whole lines."""

from __future__ import annotations

import codecs
import re
import time
from typing import IO, TYPE_CHECKING

from imageflow.errors import NotFound
from imageflow.host.visible import visible
from imageflow.model import BuildState

if TYPE_CHECKING:
    from imageflow.cli.app import App
    from imageflow.model import Build
    from imageflow.service import Service

LOOK = 0.3  # seconds between two looks at the console: a machine can't notify us
ASK = 1.0  # seconds between two queries for the build's state
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # cursor, colours, clear
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # strings for the terminal
    r"|\x1b[ -/]*[0-OQ-WYZ`-~\\]"  # the short ones
)
_LINE_END = re.compile(r"\r*\n|\r+")
_UNWANTED = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10})
_LONGEST = 4096  # characters that an escape may have before it counts as text


class Cleaner:
    """Takes bytes in pieces; an unfinished escape or character waits for its rest."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> str:
        """The text of the next bytes; b'' marks the end."""
        text = self._rest + self._decoder.decode(data, final=not data)
        text = _ESCAPE.sub("", text)
        self._rest = ""
        if data:
            begun = text.find("\x1b", max(0, len(text) - _LONGEST))
            cut = begun if begun >= 0 else len(text.rstrip("\r"))  # maybe half of a line end
            text, self._rest = text[:cut], text[cut:]
        return visible(_LINE_END.sub("\n", text).translate(_UNWANTED), lines=True)


def last_lines(data: bytes, count: int) -> bytes:
    """The last `count` lines of the data."""
    end = len(data)
    at = end - 1 if data.endswith(b"\n") else end
    for _ in range(count):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return data
    return data[at + 1 :]


def copy_console(
    app: App, service: Service, build: Build, role: str, *, follow: bool, lines: int | None, raw: bool
) -> None:
    """Write the console to stdout; with `follow`, until the build has ended. Raises NotFound, Conflict."""
    data = service.machines.console(build, role)
    offset = len(data)
    if not data and (not follow or build.state.ended):
        raise NotFound(
            f"build {build.id} has printed nothing on its console",
            hint="it may be about to start: '--follow' waits for it"
            if not build.state.ended
            else f"see 'imageflow build log {build.id}'",
        )
    cleaner = None if raw else Cleaner()
    out = app.stdout.buffer
    _write(out, cleaner, data if lines is None else last_lines(data, lines))
    if follow:
        _follow(app, service, build, role, offset, cleaner, out)
    if cleaner is not None:
        _write(out, cleaner, b"")
        if app.stdout.isatty():
            out.write(b"\n")  # a prompt has no newline
            out.flush()


def _write(out: IO[bytes], cleaner: Cleaner | None, data: bytes) -> None:
    out.write(data if cleaner is None else cleaner.feed(data).encode("utf-8", "replace"))
    out.flush()


def _follow(
    app: App, service: Service, build: Build, role: str, offset: int, cleaner: Cleaner | None, out: IO[bytes]
) -> None:
    told: BuildState | None = None
    asked = time.monotonic() - ASK
    while True:
        data = service.machines.console(build, role, offset)
        if data:
            offset += len(data)
            _write(out, cleaner, data)
            continue
        if build.state.ended:
            return
        if time.monotonic() - asked >= ASK:
            build, asked = service.build(build.id), time.monotonic()
            if build.state is not told and build.state is BuildState.PAUSED:
                app.note(f"imageflow: build {build.id} is paused: {build.error}")
            told = build.state
            continue  # read everything printed before the end before stopping
        time.sleep(LOOK)
