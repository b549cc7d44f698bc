"""Answer files of unattended installers: checked before anything boots, then completed for the medium."""

from __future__ import annotations

import importlib
from typing import Any

from imageflow.host.text import Text
from imageflow.host.text import read as read_text
from imageflow.iso import Additions, Answers
from imageflow.iso.answers.problem import AnswerProblem, cleaned

__all__ = ["AnswerProblem", "check", "compose", "read"]


def read(kind: Answers, data: bytes) -> Text:
    """The text of an answer file, whatever encoding and line ends it has; raises BadInput when it is none."""
    return read_text(data, _of(kind).declared_encoding(data) if kind is Answers.AUTOYAST else "utf-8")


def check(kind: Answers, text: str, name: str, release: str | None = None) -> list[AnswerProblem]:
    """What is wrong with an answer file, in line order: what stops its installer, and remarks on what does not.

    `name` is the file's, for messages. `release` is for kickstarts: the system that is installed, such as rhel9,
    rocky8 or fedora40, or 'kickseed' for Debian's dialect; without it, a file is checked as what fits it best.
    """
    if release is not None and kind is not Answers.KICKSTART:
        return [AnswerProblem(0, f"{name}: only kickstarts have a release", "remove 'release'")]
    if not text.strip():
        return [AnswerProblem(0, f"{name} is empty", f"write the {kind} answers into it")]
    for number, line in enumerate(text.split("\n"), 1):
        if "\0" in line:
            return [AnswerProblem(number, "there is a NUL character", "save the file as plain text (UTF-8)")]
        if line.endswith("\r"):
            return [AnswerProblem(number, "the line ends as on Windows", f"convert it: sed -i 's/\\r$//' {name}")]
    found: list[AnswerProblem] = _of(kind).check(text, release)
    return sorted(dict.fromkeys(found), key=lambda problem: problem.line)


def compose(kind: Answers, text: str, additions: Additions, release: str | None = None) -> bytes:
    """The answer file for the medium: the user's, with imageflow's additions in the file's own language.

    The installed system accepts root's key and uses the serial console; the machine is powered off at the end
    instead of rebooted; the last command writes the marker to the serial console, unless one of the user's
    scripts failed (for a kickstart: each %post is `--erroronfail`). `release` is as for `check`.
    Raises BadInput for unusable additions, or for a file that `check` would refuse.
    """
    composed: str = _of(kind).compose(text, cleaned(additions), release)
    return composed.encode()


def _of(kind: Answers) -> Any:
    """The module of a kind; imported on demand, as pykickstart is large."""
    return importlib.import_module(f"imageflow.iso.answers.{kind.value}")
