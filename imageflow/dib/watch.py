"""Reads diskimage-builder's output while it works: progress, phases, and why it failed."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable

from imageflow.dib.environment import without_userinfo
from imageflow.errors import CommandFailed, ImageflowError, NoSpace
from imageflow.host.buildlog import cleaner

# phase -> (progress at its start, its usual number of lines); measured with a minimal Debian with a kernel
_PHASES = {
    "prepare": (0.0, 300),
    "root": (0.02, 900),
    "extra-data": (0.44, 60),
    "pre-install": (0.45, 300),
    "install": (0.52, 500),
    "post-install": (0.80, 250),
    "post-root": (0.84, 40),
    "block-device": (0.85, 40),
    "pre-finalise": (0.88, 40),
    "finalise": (0.89, 80),
    "cleanup": (0.94, 60),
    "image": (0.97, 40),
}
_ORDER = list(_PHASES)
_RUNNING = re.compile(r"dib-run-parts Running \S*/([a-z-]+)\.d/(\S+)$")
_HOOKS_FROM = re.compile(r"^Running hooks from \S*/([a-z-]+)\.d$")
_COMPLETED = re.compile(r"dib-run-parts (\S+) completed$")
_NO_MIRROR = (
    r"Could not resolve|Temporary failure in name resolution|Couldn't download|Failed to fetch|Connection (refused|timed out)"
    r"|Could not connect|Unable to connect|Network is unreachable|Couldn't resolve|Failed getting release file"
    r"|Invalid Release file"
)
_TIDYING = re.compile(r"^Unmount /|^\*\*\* .* is not a directory|INFO diskimage_builder|dib-run-parts")
_CAUSES = (
    (
        r"No space left on device|Disk quota exceeded",
        "free space in state_dir, or set [dib] tmpfs = false if memory was full",
    ),
    (
        r"is not signed|NO_PUBKEY|GPG error|The following signatures|InRelease' is no longer signed",
        "the archive's signature can't be checked: is its keyring installed, and are the DIB_*_MIRROR variables right?",
    ),
    (
        _NO_MIRROR,
        "a package mirror does not answer: check the network and the host's archive configuration, then resume the build",
    ),
    (
        r"Unable to locate package (\S+)|has no installation candidate|No match for argument",
        "is the package's name right?",
    ),
    (
        r"cannot find an unused loop device|failed to set up loop device",
        "are all loop devices in use? see 'losetup -a'",
    ),
    (r"(\S+): command not found", "a program is missing; install it where the element expects it"),
    (r"Element '([^']*)' not found", "check the element's name and [dib] elements_path"),
    (r"Please include an operating system element", "add a distribution to 'elements', such as debian-minimal"),
)


class DibWatch:
    """Takes every line of a run: logs it, reports progress, remembers the last lines."""

    def __init__(self, log: Callable[[str], None], progress: Callable[[float, str], None]) -> None:
        self._log = log
        self._progress = progress
        self._clean = cleaner(log)
        self._phase = "prepare"
        self._lines = 0
        self._done = 0.0
        self._hook: str | None = None
        self._tail: deque[str] = deque(maxlen=200)
        progress(0.0, self._phase)

    def clean(self, text: str) -> str:
        """The text with secrets masked, for quoting in an error."""
        return self._clean(without_userinfo(text))

    def __call__(self, line: str) -> None:
        line = without_userinfo(line)
        self._log(line)
        self._tail.append(line)
        self._lines += 1
        if match := _RUNNING.search(line):
            self._enter(match[1])
            self._hook = f"{match[1]}.d/{match[2]}"
        elif match := _HOOKS_FROM.match(line):
            self._enter(match[1])
        elif _COMPLETED.search(line):
            self._hook = None
        elif line.startswith("Calculating image size"):
            self._enter("block-device")
        elif line.startswith(("Converting image using", "Image file ")):
            self._enter("image")
        self._report()

    def failure(self, error: CommandFailed) -> ImageflowError:
        """The error for an operator: the failed hook, its exit code, and the cause if it is known."""
        said = [line for line in self._tail if line.strip() and not _TIDYING.search(line)]
        message = error.message
        if self._hook:
            message = f"diskimage-builder's hook {self._hook} failed: {message}"
        for pattern, way_out in _CAUSES:
            for line in reversed(said):
                if match := re.search(pattern, line):
                    quoted = self._clean(line.strip())[:200]
                    kind = NoSpace if "space left" in match[0] or "quota" in match[0] else CommandFailed
                    return kind(f"{message}: {quoted}", hint=way_out)
        last = " | ".join(self._clean(line.strip())[:200] for line in said[-4:])
        return CommandFailed(message, hint=f"its last lines: {last}" if last else "see the build's log")

    def _enter(self, phase: str) -> None:
        if phase in _PHASES and _ORDER.index(phase) > _ORDER.index(self._phase):
            self._phase, self._lines = phase, 0

    def _report(self) -> None:
        begin, usual = _PHASES[self._phase]
        following = _ORDER.index(self._phase) + 1
        end = _PHASES[_ORDER[following]][0] if following < len(_ORDER) else 1.0
        self._done = max(self._done, begin + (end - begin) * (1 - math.exp(-2 * self._lines / usual)))
        self._progress(self._done, self._phase)
