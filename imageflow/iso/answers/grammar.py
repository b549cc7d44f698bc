"""Anaconda's grammar of kickstarts, release by release: asks the program that uses pykickstart."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from imageflow.errors import CommandFailed, Exceeded, TimedOut
from imageflow.host import process
from imageflow.host.control import Control
from imageflow.iso.answers.problem import AnswerProblem, remark
from imageflow.iso.answers.sections import open_sections, sections
from imageflow.recipe.problems import did_you_mean, short

MISSING = "is not checked: imageflow was installed without its extra kickstart, which reads Anaconda's grammar"
WAY_OUT = "pip install 'imageflow[kickstart]'"
_PROGRAM = Path(__file__).with_name("kickstart_program.py")
_LONGEST = 120.0  # seconds, on a busy host
_RHEL = (
    "rhel", "el", "redhat", "redhatenterprise", "rocky", "alma", "centos", "centosstream", "c", "ol", "oel", "oracle",
    "scientific", "sl", "springdale", "springdaleopenenterprise", "euro", "circle", "cloud", "navy", "miracle", "vz", "virtuozzo", "asianux",
)  # fmt: skip
_FEDORA = ("f", "fc", "fedora", "fedoracore")
_NAMED = re.compile(r"(?P<name>[a-z][a-z ._/-]*?)[ ._-]*v?(?P<number>\d+)(?:[.-]\d+)*[ ._-]*(?:s|stream)?")
_FILLING = re.compile(r"[ ._/-]|linux|gnu|server|workstation")
_TOLERANT = "RHEL6"  # takes a section without %end with a warning; what is older takes it, what is newer does not


@cache
def available() -> bool:
    """Whether there is a grammar on this host; without it kickstarts are not checked."""
    return importlib.util.find_spec("pykickstart") is not None


@cache
def releases() -> Sequence[str]:
    """The names of all releases that pykickstart knows, the oldest first; RHEL among the Fedoras that they come from."""
    return tuple(_ask("", (), tolerant=False)["releases"]) if available() else ()


def newest(kind: str = "F") -> str:
    """The newest release: of Fedora, or with 'RHEL' of Red Hat Enterprise Linux; '' when none is known."""
    return next((name for name in reversed(releases()) if re.fullmatch(rf"{kind}\d+", name)), "")


def release_of(words: str) -> str | None:
    """Pykickstart's name of a release that is written in any usual way: rhel9, Rocky Linux 9.4, centos-stream-9, fedora40."""
    text = words.strip().lower()
    if text in ("devel", "rawhide", "fedora rawhide", "fedora"):
        return newest()
    found = _NAMED.fullmatch(text)
    if found is None:
        return None
    name, number = _FILLING.sub("", found["name"]), int(found["number"])
    kind = "RHEL" if name in _RHEL else ("FC" if number < 7 else "F") if name in _FEDORA else ""
    return known if kind and (known := f"{kind}{number}") in releases() else None


def suggestion(words: str) -> str:
    """A hint for a release that is not known."""
    otherwise = f"such as {newest('RHEL')}, rocky9, fedora{newest()[1:]}; or kickseed, for Debian"
    return did_you_mean(words.upper(), [*releases(), "KICKSEED"], otherwise)


def problems(text: str, release: str) -> list[AnswerProblem]:
    """Every error of this release's grammar, and what it only warns of; no file or URL that it names is read."""
    tolerant = release == _TOLERANT
    found = [
        remark(line, f"section {name} does not end with %end", "add it: every newer release wants it")
        for line, name in (open_sections(text) if tolerant else ())
    ]
    return found + _told(text, _ask(text, (release,), tolerant=tolerant)["found"][release])


def problems_by_release(text: str, names: Iterable[str]) -> dict[str, list[AnswerProblem]]:
    """The same for several, of which nobody said that it is one: so the tolerance of an old one does not count."""
    return {name: _told(text, found) for name, found in _ask(text, tuple(names), tolerant=False)["found"].items()}


@lru_cache(maxsize=16)  # a recipe is checked again before each of its builds
def _ask(text: str, names: tuple[str, ...], *, tolerant: bool) -> Mapping[str, Any]:
    """What the program says. Raises Exceeded for a kickstart that takes it too long."""
    asked = json.dumps({"text": text, "releases": list(names), "tolerant": tolerant}).encode()
    command = [sys.executable, "-P", str(_PROGRAM)]
    control = Control(time.monotonic() + _LONGEST)
    try:
        said = process.run(command, control=control, given=asked, capture=True, name="the check of the kickstart")
    except (CommandFailed, TimedOut) as error:
        if isinstance(error, CommandFailed) and not error.message.endswith(("SIGXCPU", "SIGKILL")):
            raise
        raise Exceeded("the check of the kickstart took too much") from None
    answer: Mapping[str, Any] = json.loads(said)
    return answer


def _told(text: str, found: Iterable[tuple[int, str, str]]) -> list[AnswerProblem]:
    told = []
    for line, kind, message in found:
        if kind == "warning":
            told.append(_remark(message))
        elif kind == "quote":
            told.append(AnswerProblem(_line_of(text), short(message), "close the quote"))
        elif kind == "bug":
            told.append(AnswerProblem(0, short(message, 300)))
        else:
            told.append(_problem(line, message))
    return told


def _problem(line: int, message: str) -> AnswerProblem:
    message = short(" ".join(message.split()), 300)
    message = re.sub(r"^The following problem occurred on line \d+ of the kickstart file: ", "", message)
    hint = ""
    if "does not end with %end" in message:
        hint = "add %end at the section's end; RHEL 6 (release: rhel6) and Debian (release: kickseed) do without"
    elif "Unknown command: preseed" in message:
        hint = "Debian's kickstarts are checked with 'release: kickseed'"
    elif "has been removed" in message:
        hint = "remove the line"
    return AnswerProblem(line, message, hint)


def _remark(message: str) -> AnswerProblem:
    """A warning of pykickstart's, whose line is in its text."""
    message = " ".join(message.split())
    found = re.search(r"on line (\d+)", message)
    message = re.sub(r"^(Ignoring deprecated command|[\w ]+) on line \d+: ", "", message)
    return remark(int(found[1]) if found else 0, short(message, 300))


def _line_of(text: str) -> int:
    """The first line of the commands that shlex can't split."""
    for number, (line, section) in enumerate(sections(text), 1):
        if not section:
            try:
                shlex.split(line, comments=True)
            except ValueError:
                return number
    return 0
