"""Installer ISOs: what they are, their answer files, and remastering them to install unattended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Answers(StrEnum):
    """Kinds of answer files, by the key in a recipe's `answers`."""

    PRESEED = "preseed"  # Debian, Ubuntu before 20.04
    KICKSTART = "kickstart"  # Anaconda, and Debian's kickseed
    AUTOINSTALL = "autoinstall"  # Ubuntu's subiquity
    AUTOYAST = "autoyast"  # SUSE


@dataclass(frozen=True, slots=True)
class Additions:
    """What imageflow adds to an answer file, in the file's own language."""

    authorized_key: str  # for root: how the installed system is reached
    marker: str  # the last command writes this line to the first serial console (and to the log): the install is done
    console: str = "ttyS0,115200"  # where installer and installed system talk
    hold: int = 0  # seconds that the machine stays on after the marker, for who looks at its console now and then
