"""The flight recorder: finds out what an unattended machine is doing from its console, screen and disk.

`phases.py` knows the output of installers and boots; `watch.py` decides, from what is seen and when, whether
the machine makes progress, waits for input, hangs, or has crashed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why an unattended machine can't get any further."""

    STALL = "stall"  # no serial output and no disk writes for too long
    DIALOG = "dialog"  # it waits for an answer
    PANIC = "panic"
    BOOT_LOOP = "boot-loop"
    NOT_INSTALLED = "not-installed"  # it powered off (or rebooted) without reporting success
    NO_BOOT = "no-boot"  # the firmware found nothing to boot
    DIED = "died"  # its process ended, or its host was rebooted


@dataclass(frozen=True, slots=True)
class Trouble:
    """A recognised failure."""

    cause: Cause
    message: str  # one line for an operator: 'the installer waits at a dialog: No root file system'
    hint: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds until trouble is reported."""

    stall: float = 900.0
    dialog: float = 45.0  # a dialog is on the console and nothing changes
    start: float = 180.0  # a booted disk has neither printed nor written anything since
    boots: int = 3  # kernel starts on the console that count as a boot loop
