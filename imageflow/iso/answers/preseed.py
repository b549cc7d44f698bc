"""Debian's preseed files: lines of `owner name type value`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from imageflow.iso import Additions
from imageflow.iso.answers.problem import Problem, key_commands, marker_command
from imageflow.recipe.problems import did_you_mean, listed, short

_TYPES = ("string", "boolean", "select", "multiselect", "note", "text", "password", "error", "title", "seen")
_VALUED = ("boolean", "select", "password", "seen")  # those for which no value makes no sense
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


def check(text: str, _release: str | None) -> list[Problem]:
    """What debconf would not understand."""
    found: list[Problem] = []
    first: dict[tuple[str, str], int] = {}
    lines = text.split("\n")
    last = len(text.rstrip("\n").split("\n"))
    if lines[last - 1].endswith("\\") and not lines[last - 1].lstrip().startswith("#"):
        found.append(
            Problem(last, "the last line goes on, and there is no next one", "remove the backslash at its end")
        )
    for number, line in _joined(text):
        owner, name, kind, value = _parts(line)
        if not kind:
            found.append(
                Problem(number, f"'{short(line)}' is not 'OWNER NAME TYPE VALUE'", "such as: d-i time/zone string UTC")
            )
            continue
        if "/" not in name:
            found.append(Problem(number, f"{short(name)!r} is not the name of a question", "they look like time/zone"))
        if kind not in _TYPES:
            found.append(
                Problem(
                    number, f"{short(kind)!r} is not a type of debconf's", did_you_mean(kind, _TYPES, listed(_TYPES))
                )
            )
            continue
        if not value and kind in _VALUED:
            found.append(Problem(number, f"{short(name)} has no value", f"a {kind} needs one"))
        elif kind in ("boolean", "seen") and value not in ("true", "false"):
            found.append(Problem(number, f"{short(name)}: {short(value)!r} is not a boolean", "write true or false"))
        if kind != "seen":
            before = first.setdefault((owner, name), number)
            if before != number:
                found.append(
                    Problem(
                        number, f"{short(name)} was answered in line {before} already", "the last one counts: keep one"
                    )
                )
        if name in _COMMANDS and _unclosed(value):
            found.append(Problem(number, f"{name}: a quote is not closed", "the shell would not run any of it"))
    return found


def compose(text: str, additions: Additions) -> str:
    """The user's lines without those that are ours to write, and ours."""
    kept: list[str] = []
    values: dict[str, str] = {}
    for _, line in _joined(text, comments=True):
        _, name, _, value = _parts(line)
        if not line.startswith("#") and name in _OURS:
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
    """(number of its first line, line) with continued lines in one; without empty lines, and without comments."""
    whole, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        start = start or number
        if not whole and (not line.strip() or line.lstrip().startswith("#")):
            if comments and line.strip():
                yield number, line.strip()
            start = 0
            continue
        if line.endswith("\\"):
            whole += line[:-1].strip() + " "
            continue
        yield start, (whole + line.strip()).strip()
        whole, start = "", 0
    if whole.strip():
        yield start, whole.strip()


def _parts(line: str) -> tuple[str, str, str, str]:
    words = line.split(None, 3)
    owner, name, kind, value = (*words, "", "", "", "")[:4]
    return owner, name, kind, value.strip()


def _unclosed(command: str) -> bool:
    """Certainly: whichever '#' begins a comment, and there is no document inside."""
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
