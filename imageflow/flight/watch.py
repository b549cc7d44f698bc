"""Decides from a console and a disk whether an unattended machine goes on: pure, time comes from outside."""

from __future__ import annotations

import re
from collections import deque

from imageflow.flight import Cause, Limits, Trouble
from imageflow.flight.phases import BOOTING, INSTALLERS, SYSTEMS

_KEPT = 400  # lines of the console
_LINE = 4096  # characters of a line that are looked at
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|[()][0-9A-B]|\][^\x07]*\x07|[=>78cDEHM])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FRAMES = re.compile(r"[─-╿▀-▟│┤├┌┐└┘]+|(?<!\w)[lqkxmjtun]{6,}(?!\w)")  # drawn boxes; the second in VT100's own letters
_PANIC = re.compile(r"Kernel panic - not syncing: ?(.*)")
_BOOTS = (
    re.compile(r"Linux version \d"),
    re.compile(r"SeaBIOS \(version|BdsDxe: starting Boot"),
    re.compile(r"^(ISOLINUX|SYSLINUX) \d|GRUB loading|Welcome to GRUB"),
)
_NO_BOOT = re.compile(
    r"No bootable device|not a bootable disk|BdsDxe: No bootable option|PXE-E|operating system not found", re.I
)
_SHELLS = (  # of anything that boots
    (
        re.compile(
            r"Give root password for maintenance|Press Enter for maintenance|You are in (emergency|rescue) mode"
        ),
        "an emergency shell",
    ),
    (re.compile(r"^\(initramfs\)|^grub( rescue)?>|^dracut:/#"), "a rescue shell"),
)
_ASKS = (  # of installers
    (re.compile(r"Prompt: '\?' for help"), "a question of the installer"),
    (re.compile(r"<(Go Back|Continue|OK|Ok|Yes|No|Cancel|Weiter)>"), "a dialog"),
    (re.compile(r"\[?Press (Enter|enter|RETURN|any key)|Press <?Enter>? to", re.I), "a key to be pressed"),
    (re.compile(r"Please make a selection from the above|\['?c'? to continue|'q' to quit"), "a menu of the installer"),
    (re.compile(r"Would you like to .*\?$|\[y/N\]:?$|\(y/n\)\??$|\(yes/no\)\??$", re.I), "a question"),
)
_LOGIN = re.compile(r"(^|\s)login: ?$")


class Watch:
    """Sees what a machine prints and writes, bit by bit."""

    def __init__(self, limits: Limits, *, installer: bool) -> None:
        """`installer`: it installs itself and powers off; else it boots to a login prompt."""
        self._limits = limits
        self._installer = installer
        self._phases = (*BOOTING, *INSTALLERS) if installer else (*BOOTING, *SYSTEMS)
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._rest = ""
        self._raw = b""
        self._boots = [0] * len(_BOOTS)
        self._written: int | None = None
        self._moved: float | None = None  # when something happened last
        self._trouble: Trouble | None = None
        self.phase = ""
        self.fraction = 0.0

    def see(self, console: bytes, written: int | None, now: float) -> Trouble | None:
        """More of the console, bytes written to the disk so far, and the time in seconds; -> what is wrong, if anything."""
        if self._moved is None or console or (written is not None and written != self._written):
            self._moved = now
        self._written = written
        if console:
            self._take(console)
        if self._trouble is None:
            self._trouble = self._judge(now)
        return self._trouble

    def said(self, marker: str) -> bool:
        """Whether this stood on a line of the console."""
        return any(marker in line for line in (*self._lines, self._rest))

    def last_lines(self, count: int) -> list[str]:
        """The last lines as a person would read them."""
        found = [text for line in (*self._lines, self._rest) if (text := _readable(line))]
        return found[-count:]

    def _take(self, console: bytes) -> None:
        text = _ESCAPES.sub("", (self._raw + console).decode("utf-8", "replace"))
        self._raw = b""
        *lines, self._rest = re.split(r"\r*\n|\r", self._rest + text)
        self._rest = self._rest[-_LINE:]
        for line in lines:
            self._line(line[-_LINE:])
        if self._rest:
            self._find_phase(self._rest)

    def _line(self, line: str) -> None:
        self._lines.append(line)
        if match := _PANIC.search(line):
            self._trouble = self._trouble or Trouble(
                Cause.PANIC, f"the kernel panicked: {_readable(match[1]) or 'no reason given'}", "see the console"
            )
        for at, pattern in enumerate(_BOOTS):
            if pattern.search(line):
                self._boots[at] += 1
        self._find_phase(line)

    def _find_phase(self, line: str) -> None:
        for phase in self._phases:
            if match := phase.pattern.search(line):
                self.phase = match.expand(phase.name)
                self.fraction = max(self.fraction, phase.fraction)

    def _judge(self, now: float) -> Trouble | None:
        if max(self._boots) >= self._limits.boots:
            return Trouble(
                Cause.BOOT_LOOP, f"it has started {max(self._boots)} times and comes no further", "see the console"
            )
        still = now - (self._moved if self._moved is not None else now)
        if still >= min(5.0, self._limits.dialog) and self._no_boot():
            return Trouble(Cause.NO_BOOT, "there is nothing to boot", "is the disk bootable with this firmware?")
        if still >= self._limits.dialog and (what := self._asks()):
            return Trouble(Cause.DIALOG, what, "answer it in the answer file; it is on the screenshot")
        if still >= self._limits.stall and not (not self._installer and self._at_login()):
            return Trouble(
                Cause.STALL,
                f"nothing on the console and nothing written to the disk for {still:.0f} s",
                "see the console",
            )
        return None

    def _tail(self) -> list[str]:
        return [text for line in (*list(self._lines)[-25:], self._rest) if (text := _readable(line))]

    def _no_boot(self) -> bool:
        return any(_NO_BOOT.search(line) for line in self._tail()[-5:])

    def _at_login(self) -> bool:
        return any(_LOGIN.search(line) for line in self._tail()[-3:])

    def _asks(self) -> str | None:
        """What the machine waits for, in words; None when it doesn't seem to wait for anybody."""
        tail = self._tail()
        for pattern, what in (*_SHELLS, *_ASKS) if self._installer else _SHELLS:
            if any(pattern.search(line) for line in tail[-8:]):
                quoted = " / ".join(line for line in tail[-8:] if not pattern.fullmatch(line))[-200:]
                return f"it waits at {what}: {quoted}"
        if self._installer and self._at_login():
            return "it waits at a login prompt: this is not the installer"
        return None


def _readable(line: str) -> str:
    return " ".join(_CONTROLS.sub(" ", _FRAMES.sub(" ", line)).split())
