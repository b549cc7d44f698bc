"""The flight recorder: what an unattended machine is doing, from its console, screen and disk.

`phases.py` knows what installers and boots print; `watch.py` decides, from what is seen and when, whether
the machine goes on, waits for somebody, hangs, or has crashed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why an unattended machine will not get any further."""

    STALL = "stall"  # no serial output and no disk writes for too long
    DIALOG = "dialog"  # it waits for somebody to answer
    PANIC = "panic"
    BOOT_LOOP = "boot-loop"
    NOT_INSTALLED = "not-installed"  # it powered off (or rebooted) without having said that it is done
    NO_BOOT = "no-boot"  # the firmware found nothing to boot
    DIED = "died"  # its process ended, or its host was rebooted


@dataclass(frozen=True, slots=True)
class Trouble:
    """What was recognised."""

    cause: Cause
    message: str  # one line for an operator: 'the installer waits at a dialog: No root file system'
    hint: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds until something is called trouble."""

    stall: float = 900.0
    dialog: float = 45.0  # a dialog that is on the console and nothing moves
    start: float = 180.0  # a disk that was booted has neither said nor written anything since
    boots: int = 3  # times that a kernel may start on the console before it is a boot loop
