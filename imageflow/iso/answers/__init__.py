"""Answer files of unattended installers: checked before anything boots, completed on their way to the medium."""

from __future__ import annotations

import importlib
from typing import Any

from imageflow.iso import Additions, Answers
from imageflow.iso.answers.problem import Problem, cleaned

__all__ = ["Problem", "check", "compose"]


def check(kind: Answers, text: str, name: str, release: str | None = None) -> list[Problem]:
    """What is wrong with an answer file, in the order of its lines; [] when nothing was found.

    `name` is the file's, for the wording. `release` is for kickstarts: one of pykickstart's version names in
    any case, or 'kickseed' for Debian's dialect; absent, it is the newest (kickseed for a file with its `preseed`).
    """
    if release is not None and kind is not Answers.KICKSTART:
        return [Problem(0, f"{name}: only kickstarts have a release", "remove 'release'")]
    if not text.strip():
        return [Problem(0, f"{name} is empty", f"write the {kind} answers into it")]
    for number, line in enumerate(text.split("\n"), 1):
        if "\0" in line:
            return [Problem(number, "there is a NUL character", "save the file as plain text (UTF-8)")]
        if line.endswith("\r"):
            return [Problem(number, "the line ends as on Windows", f"convert it: sed -i 's/\\r$//' {name}")]
    found: list[Problem] = _of(kind).check(text, release)
    return sorted(dict.fromkeys(found), key=lambda problem: problem.line)


def compose(kind: Answers, text: str, additions: Additions) -> bytes:
    """The answer file that goes onto the medium: the user's, with what imageflow needs in its own language.

    The installed system lets root in by the key and talks on the serial console; the machine is powered off
    at the end instead of rebooted; as the last command of all the marker is written to the serial console,
    which does not happen when a script of the user's failed (for a kickstart: each %post is `--erroronfail`).
    Raises BadInput when the additions, or a file that `check` would refuse, can't be composed.
    """
    composed: str = _of(kind).compose(text, cleaned(additions))
    return composed.encode()


def _of(kind: Answers) -> Any:
    """The module of a kind; loaded when it is needed, for pykickstart is large."""
    return importlib.import_module(f"imageflow.iso.answers.{kind.value}")
