"""Decides from console and disk whether an unattended machine makes progress: pure, the caller passes the time."""

from __future__ import annotations

import codecs
import re
from collections import deque

from imageflow.flight import Cause, Limits, Trouble
from imageflow.flight.asking import at_login, nothing_to_boot, question, readable
from imageflow.flight.phases import BOOTING, INSTALLERS, SYSTEMS, find
from imageflow.flight.screen import Screen

_KEPT = 5000  # lines of the console
_LINE = 4096  # characters of a line that are considered
_NO_BOOT = 5.0  # seconds that a firmware may take to find something to boot after all
_ESCAPES = re.compile(
    r"\x1b(\[[0-?]*[ -/]*[@-~]|[()*+].|\][^\x07\x1b]*(\x07|\x1b\\)|[PX^_k][^\x1b]*\x1b\\|[0-9=>A-Zc-z~|}])"
)
_PANIC = re.compile(r"Kernel panic - not syncing: ?(.*)")
_BOOTS = (
    re.compile(r"Linux version \d"),
    re.compile(r"SeaBIOS \(version|BdsDxe: starting Boot"),
    re.compile(r"(ISOLINUX|SYSLINUX) \d+\.\d|GRUB loading|Welcome to GRUB"),
)
_CLOCK = re.compile(r"\b\d\d?:\d\d(:\d\d)?\b")


class Watch:
    """Watches what a machine prints and writes, piece by piece.

    The first piece may contain the history of a machine that another worker watched before, with boots and even
    a panic that it survived: only its end counts.
    """

    def __init__(self, limits: Limits, *, installer: bool) -> None:
        """`installer`: it runs an installer and powers off; else it boots to a login prompt."""
        self._limits = limits
        self._installer = installer
        self._phases = (*BOOTING, *INSTALLERS) if installer else (*BOOTING, *SYSTEMS)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._rest = ""
        self._screen = Screen()
        self._shown: tuple[int, list[str]] = (0, [])
        self._boots = [0] * len(_BOOTS)
        self._spoken = False  # whether there was ever any output
        self._past = True  # the output is from before this watch
        self._panic: str | None = None
        self._written: int | None = None
        self._drawn: float | None = None  # time of the screen's last change
        self._moved = 0.0  # time of the last change of the screen or the disk
        self._trouble: Trouble | None = None
        self.phase = ""
        self.fraction = 0.0

    def see(self, console: bytes, written: int | None, now: float) -> Trouble | None:
        """Take more console output, bytes written to the disk so far, and the time in seconds; -> the trouble, if any.

        Trouble once found stays.
        """
        if console:
            self._spoken = True
            self._screen.feed(console)
            self._take(console)
        if (console and self._changed()) or self._drawn is None:
            self._drawn = self._moved = now
        if written is not None and written != self._written:
            self._moved = now
        self._written = written
        self._past = self._past and not console
        if self._trouble is None:
            self._trouble = self._judge(now)
        return self._trouble

    def said(self, marker: str) -> bool:
        """Whether a line of the console ended with the marker; an echoed command that contains it does not count."""
        return any(line.rstrip().endswith(marker) for line in (*self._lines, self._rest))

    def last_lines(self, count: int) -> list[str]:
        """The last lines as a user would read them: those of the screen, if something is drawn on it."""
        rows = self._screen.rows()
        lines = rows if any("│" in row for row in rows) else [*self._lines, self._rest]
        return [text for line in lines if (text := readable(line))][-count:]

    def _changed(self) -> bool:
        """Whether the screen changed, ignoring a clock in a status line and redraws of the same text."""
        rows = self._screen.rows()
        rows[0], rows[-1] = _CLOCK.sub("", rows[0]), _CLOCK.sub("", rows[-1])
        before, self._shown = self._shown, (self._screen.scrolled, rows)
        return before != self._shown

    def _take(self, console: bytes) -> None:
        text = _ESCAPES.sub("", self._rest + self._decode(console))
        *lines, self._rest = re.split(r"\r*\n|\r(?!\Z)", text)
        self._rest = self._rest[-_LINE:]
        for line in lines:
            self._line(line[-_LINE:])
        if self._rest:
            self._find_phase(self._rest)

    def _line(self, line: str) -> None:
        self._lines.append(line)
        if match := _PANIC.search(line):
            self._panic = readable(match[1]) or "no reason given"
        for at, pattern in enumerate(_BOOTS):
            if pattern.search(line):
                self._boots[at] = 1 if self._past else self._boots[at] + 1
                self._panic = None if self._past else self._panic
        self._find_phase(line)

    def _find_phase(self, line: str) -> None:
        if found := find(self._phases, line):
            self.phase, fraction = found
            self.fraction = max(self.fraction, fraction)

    def _judge(self, now: float) -> Trouble | None:
        if self._panic is not None:
            return Trouble(Cause.PANIC, f"the kernel panicked: {self._panic}", "the console shows what happened before")
        if max(self._boots) >= self._limits.boots:
            times = f"it has started {max(self._boots)} times and gets no further"
            return Trouble(Cause.BOOT_LOOP, times, "the console shows how each start ended")
        still = now - (self._drawn if self._drawn is not None else now)
        if still >= min(_NO_BOOT, self._limits.dialog, self._limits.stall, self._limits.start):
            return self._judge_still(still, now - self._moved)
        return None

    def _judge_still(self, still: float, idle: float) -> Trouble | None:
        """`still`: seconds since the screen changed; `idle`: since that or the disk did."""
        rows, at_cursor = self._screen.rows(), self._screen.at_cursor()
        if still >= min(_NO_BOOT, self._limits.dialog) and nothing_to_boot(rows):
            hint = "is the disk bootable with this firmware? See machine.firmware"
            return Trouble(Cause.NO_BOOT, "the firmware found nothing to boot", hint)
        if at_login(at_cursor) and not self._installer:
            return None
        if still >= self._limits.dialog and (what := question(rows, at_cursor, installer=self._installer)):
            hint = "answer it in the answer file" if self._installer else "look at its console"
            return Trouble(Cause.DIALOG, f"it waits at {what}", f"{hint}; the screenshot shows it")
        if idle >= self._limits.start and not (self._installer or self._spoken):
            what = f"it has printed nothing and written nothing to its disk in {idle:.0f} s: it does not boot"
            return Trouble(Cause.NO_BOOT, what, "the screenshot shows why; is the disk bootable with this firmware?")
        if idle >= self._limits.stall:
            last = (self.last_lines(1) or ["nothing at all"])[0]
            what = f"nothing new on the console and nothing written to the disk for {idle:.0f} s; last output: {last}"
            return Trouble(Cause.STALL, what, "the screenshot may show more; some installers log to another console")
        return None
