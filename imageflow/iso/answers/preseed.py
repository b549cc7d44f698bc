"""Debian's preseed files: lines of `owner name type value`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from imageflow.iso import Additions
from imageflow.iso.answers.problem import AnswerProblem, key_commands, marker_command, remark
from imageflow.recipe.problems import did_you_mean, listed, short

_TYPES = ("string", "boolean", "select", "multiselect", "note", "text", "password", "error", "title", "seen")
_VALUED = ("boolean", "select", "password", "seen")  # types that need a value
_COMMANDS = ("preseed/early_command", "preseed/late_command", "partman/early_command")
_LATE = "preseed/late_command"
_OPTIONS = "debian-installer/add-kernel-opts"
_OURS = (
    "debian-installer/exit/poweroff",
    "debian-installer/exit/halt",
    "debian-installer/exit/always_halt",
    "finish-install/reboot_in_progress",
    "cdrom-detect/eject",
    _OPTIONS,
    _LATE,
)
_NOW = ("preseed/include", "preseed/run")  # fetched while the initrd starts: there is no network and no CD yet
_LATER = ("preseed/url", "preseed/file")  # fetched when there is one
_AWAY = re.compile(r"(?:https?|ftp|tftp|floppy|nfs|hd-media|media)://|/(?:cdrom|media|floppy|hd-media|target)/")


def check(text: str, _release: str | None) -> list[AnswerProblem]:
    """What debian-installer's debconf-set-selections stops at, and remarks on lines that don't do what they seem to."""
    found: list[AnswerProblem] = []
    first: dict[str, int] = {}
    last = [
        (number, line)
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ][-1:]
    if last and last[0][1].endswith("\\"):
        found.append(
            AnswerProblem(
                last[0][0], "the last line is continued, but there is no next one", "remove the backslash at its end"
            )
        )
    for number, line in _joined(text):
        owner, name, kind, value = _parts(line)
        if not kind:
            found.append(
                AnswerProblem(
                    number, f"'{short(line)}' is not 'OWNER NAME TYPE VALUE'", "such as: d-i time/zone string UTC"
                )
            )
            continue
        found += _remarks(number, owner, name, kind, value)
        if kind != "seen":
            before = first.setdefault(name, number)
            if before != number:
                hint = "the last one counts: keep one"
                found.append(remark(number, f"{short(name)} was answered in line {before} already", hint))
            found += _fetched(number, name, value)
        if name in _COMMANDS and _unclosed(value):
            found.append(AnswerProblem(number, f"{name}: a quote is not closed", "the shell would not run any of it"))
    return found


def _remarks(number: int, owner: str, name: str, kind: str, value: str) -> Iterator[AnswerProblem]:
    """The installer takes any name, type and value; what it makes of some of them is hardly what was meant."""
    if "/" not in name:
        yield remark(number, f"{short(name)!r} is not the name of a question", "they look like time/zone")
    if kind not in _TYPES:
        why = "" if owner == "d-i" else f": {short(owner)} will not get this answer"
        yield remark(
            number, f"{short(kind)!r} is not a type of debconf's{why}", did_you_mean(kind, _TYPES, listed(_TYPES))
        )
    elif not value and kind in _VALUED:
        yield remark(number, f"{short(name)} has no value", f"a {kind} needs one")
    elif kind in ("boolean", "seen") and value not in ("true", "false"):
        yield remark(
            number, f"{short(name)}: {short(value)!r} is not a boolean", "it counts as false: write true or false"
        )


def _fetched(number: int, name: str, value: str) -> Iterator[AnswerProblem]:
    """What the file makes the installer fetch."""
    if name in _NOW and value:
        away = [word for word in value.split() if _AWAY.match(word.removeprefix("file://"))]
        if away:
            yield AnswerProblem(
                number,
                f"{name} names {short(away[0])}, which the installer can't reach this early: it would stop and ask",
                "write its lines here; or fetch answers with preseed/url, commands with preseed/early_command",
            )
        else:
            hint = "write its lines here: nothing beside this file is on the medium"
            yield remark(number, f"{name} names {short(value)}, which has to be in the installer's own initrd", hint)
    elif (name in _LATER or name == "preseed/include_command") and value:
        yield remark(
            number,
            f"{name}: what the installer fetches there is not pinned: a change of it makes no new build",
            "write its lines here",
        )


def compose(text: str, additions: Additions, _release: str | None) -> str:
    """The user's lines without the ones we replace, followed by ours."""
    kept: list[str] = []
    values: dict[str, str] = {}
    for _, line in _joined(text, comments=True):
        _, name, kind, value = _parts(line)
        if not line.startswith("#") and name in _OURS:
            if kind != "seen":
                values[name] = value
        else:
            kept.append(line)
    options = values.get(_OPTIONS, "").split()
    if not any(option.startswith(f"console={additions.console.partition(',')[0]}") for option in options):
        options.append(f"console={additions.console}")
    late = " && ".join([*key_commands(additions, "/target"), f"{{ {marker_command(additions)}; }}"])
    if values.get(_LATE):
        end = "\\n)" if "#" in values[_LATE] else " )"
        late = f"( {values[_LATE]}{end} && {late}"
    ours = [
        "# added by imageflow",
        f"d-i {_OPTIONS} string {' '.join(options)}",
        "d-i finish-install/reboot_in_progress note",
        "d-i cdrom-detect/eject boolean false",
        "d-i debian-installer/exit/poweroff boolean true",
        f"d-i {_LATE} string {late}",
    ]
    return "\n".join([*kept, *ours]) + "\n"


def _joined(text: str, *, comments: bool = False) -> Iterator[tuple[int, str]]:
    """(number of its first line, line) with continued lines joined; without empty lines and comments.

    Comments and empty lines are no part of a continued line: the installer takes them out first.
    """
    parts: list[str] = []
    start = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("#") or (not parts and line.lstrip().startswith("#")):
            if comments and line.strip() and not parts:
                yield number, line.strip()
            continue
        start = start if parts else number
        if line.endswith("\\"):
            parts.append(line[:-1].strip())
            continue
        yield start, " ".join((*parts, line.strip())).strip()
        parts = []
    if any(parts):
        yield start, " ".join(parts).strip()


def _parts(line: str) -> tuple[str, str, str, str]:
    words = line.split(None, 3)
    owner, name, kind, value = (*words, "", "", "", "")[:4]
    return owner, name, kind, value.strip()


def _unclosed(command: str) -> bool:
    """Whether a quote is certainly unclosed, wherever a comment may begin; false if there is a here-document."""
    if "<<" in command:
        return False
    command = command.replace("\\n", "\n")
    for comments in (True, False):
        try:
            shlex.split(command, comments=comments)
        except ValueError:
            continue
        return False
    return True
