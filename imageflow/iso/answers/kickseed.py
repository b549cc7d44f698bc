"""The dialect of kickstarts that Debian's installer reads through kickseed."""

from __future__ import annotations

import shlex

from imageflow.iso.answers.problem import Problem
from imageflow.recipe.problems import did_you_mean, listed, short

FAILED = "/tmp/imageflow-failed"  # in the installed system while it is made: a %post script failed
_COMMANDS = frozenset(
    [
        "auth",
        "authconfig",
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
_MOST_SCRIPTS = 9  # it runs them in the order of 0, 1, 10, 2: ours has to be the last


def check(text: str) -> list[Problem]:
    """What kickseed would skip with no more than a line in its log."""
    found: list[Problem] = []
    section, scripts, login = "", 0, False
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        word = words[0] if words else ""
        if word in ("%pre", "%post", "%packages"):
            section = word
            scripts += word == "%post"
            if scripts == _MOST_SCRIPTS + 1 and word == "%post":
                found.append(Problem(number, f"there are more than {_MOST_SCRIPTS} %post scripts", "join some"))
            continue
        if word == "%end":
            section = ""
            continue
        if word == "%include":
            found.append(Problem(number, "%include names a file that is not on the medium", "write its lines here"))
            continue
        if section or not word or word.startswith("#"):
            continue
        if word.startswith("%"):
            found.append(
                Problem(number, f"kickseed has no section {short(word)}", "%pre, %packages and %post are known")
            )
            section = word
            continue
        if word not in _COMMANDS:
            found.append(
                Problem(number, f"kickseed has no command {short(word)!r}", did_you_mean(word, _COMMANDS, "remove it"))
            )
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            found.append(Problem(number, "a quote is not closed", "close it on the same line"))
            continue
        login = login or word in ("rootpw", "user") or "passwd/" in line
        if word == "preseed":
            found += _preseed(number, words[1:])
    if not login:
        found.append(Problem(0, "nobody could log in: the installer would ask for a password", "add 'rootpw'"))
    return found


def _preseed(number: int, words: list[str]) -> list[Problem]:
    if words[:1] == ["--owner"]:
        words = words[2:]
    elif words and words[0].startswith("--owner="):
        words = words[1:]
    if len(words) not in (2, 3):
        return [Problem(number, "preseed takes NAME TYPE VALUE", "put a value of several words between quotes")]
    if words[1] not in _TYPES:
        hint = did_you_mean(words[1], _TYPES, listed(_TYPES))
        return [Problem(number, f"{short(words[1])!r} is not a type of debconf's", hint)]
    if words[1] == "boolean" and words[2:] not in (["true"], ["false"]):
        return [Problem(number, f"{short(words[0])} is not a boolean", "write true or false")]
    return []
