"""The kickstart dialect that Debian's installer reads through kickseed."""

from __future__ import annotations

import re
import shlex

from imageflow.iso.answers.problem import AnswerProblem, remark
from imageflow.recipe.problems import did_you_mean, listed, short

RELEASE = re.compile(r"(?:kickseed|debian|ubuntu|devuan|kali)(?:[ ._-]?\d.*)?", re.IGNORECASE)  # systems that have it
ANY_RELEASE = "anaconda"  # the other dialect, Anaconda's, of a release that is not known
FAILED = "/tmp/imageflow-failed"  # in the system being installed: a %post script failed
SECTIONS = ("%pre", "%packages", "%post")
_COMMANDS = frozenset(
    [
        "auth",
        "autostep",
        "bootloader",
        "cdrom",
        "clearpart",
        "device",
        "deviceprobe",
        "driverdisk",
        "firewall",
        "halt",
        "install",
        "interactive",
        "keyboard",
        "lang",
        "langsupport",
        "lilo",
        "lilocheck",
        "logvol",
        "mouse",
        "network",
        "part",
        "partition",
        "poweroff",
        "preseed",
        "raid",
        "reboot",
        "repo",
        "rootpw",
        "skipx",
        "text",
        "timezone",
        "upgrade",
        "url",
        "user",
        "volgroup",
        "xconfig",
        "zerombr",
    ]
)
_TYPES = ("string", "boolean", "select", "multiselect", "note", "text", "password", "error", "title")
_MOST_SCRIPTS = 9  # it runs them in the order 0, 1, 10, 2: ours has to be the last


def check(text: str) -> list[AnswerProblem]:
    """What ends kickseed or leaves the installer asking, and remarks on what it skips with a line in its log."""
    found: list[AnswerProblem] = []
    section, scripts, login = "", 0, False
    made = any(line.split()[:1] == ["%pre"] for line in text.split("\n"))
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        word = words[0] if words else ""
        if word in SECTIONS:
            section = word
            scripts += word == "%post"
            if scripts == _MOST_SCRIPTS + 1 and word == "%post":
                found.append(AnswerProblem(number, f"there are more than {_MOST_SCRIPTS} %post scripts", "join some"))
        elif word == "%end":
            section = ""
        elif word == "%include":
            if not made or "://" in line:
                what = "%include names a file that is not on the medium"
                found.append(AnswerProblem(number, what, "write its lines here"))
        elif section or not word or word.startswith("#"):
            continue
        elif word.startswith("%"):
            hint = "%pre, %packages and %post are known"
            found.append(remark(number, f"kickseed has no section {short(word)}: it is skipped", hint))
            section = word
        else:
            found += _command(number, line, word)
            login = login or word in ("rootpw", "user") or "passwd/" in line
    if not login:
        found.append(AnswerProblem(0, "no login is possible: the installer would ask for a password", "add 'rootpw'"))
    return found


def _command(number: int, line: str, word: str) -> list[AnswerProblem]:
    if word not in _COMMANDS:
        hint = did_you_mean(word, _COMMANDS, "remove it")
        return [remark(number, f"kickseed has no command {short(word)!r}: it is skipped", hint)]
    try:
        words = shlex.split(line)
    except ValueError:
        return [AnswerProblem(number, "a quote is not closed", "close it on the same line")]
    return _preseed(number, words[1:]) if word == "preseed" else []


def _preseed(number: int, words: list[str]) -> list[AnswerProblem]:
    if words[:1] == ["--owner"]:
        words = words[2:]
    elif words and words[0].startswith("--owner="):
        words = words[1:]
    if len(words) not in (2, 3):
        hint = "put a value of several words between quotes"
        return [remark(number, "preseed takes NAME TYPE VALUE: this is skipped", hint)]
    if words[1] not in _TYPES:
        hint = did_you_mean(words[1], _TYPES, listed(_TYPES))
        return [remark(number, f"{short(words[1])!r} is not a type of debconf's", hint)]
    if words[1] == "boolean" and words[2:] not in (["true"], ["false"]):
        hint = "it counts as false: write true or false"
        return [remark(number, f"{short(words[0])} is not a boolean", hint)]
    return []
