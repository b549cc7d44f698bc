"""Installer ISOs: inspects them, checks their answer files, and remasters them for unattended installation."""

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

    authorized_key: str  # for root: the login to the installed system
    marker: str  # the last command writes this line to the first serial console (and to the log): the install is done
    console: str = "ttyS0,115200"  # console of the installer and the installed system
    hold: int = 0  # seconds that the machine stays on after the marker, so that polling its console sees it
