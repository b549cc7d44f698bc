"""Whether an ISO and an answer file fit each other: installer, distribution, release, architecture."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imageflow.errors import Refused
from imageflow.iso import Answers
from imageflow.iso.answers.kickseed import ANY_RELEASE
from imageflow.iso.answers.kickseed import RELEASE as _DEBIAN
from imageflow.iso.answers.problem import AnswerProblem, remark
from imageflow.iso.identity import Identity
from imageflow.iso.media import Media
from imageflow.recipe.problems import short

_ARCHITECTURE = re.compile(r"(?<![\w])(x86_64|aarch64|ppc64le|s390x|i386|i686)(?![\w])")
_URL = re.compile(r"[a-z]+://[^/\s\"']+(/[^\s\"'?]*)")  # its path
_MAJOR = re.compile(r"/(\d{1,2})(?:[.-](?:\d+|stream))*(?=/)")
_SUITE = re.compile(r"^\s*\S+\s+mirror/suite\s+\S+\s+(\S+)", re.MULTILINE)
_FOLDER = re.compile(r"^\s*\S+\s+mirror/https?/directory\s+\S+\s+(\S+)", re.MULTILINE)
_SHORT_NOTATION = re.compile(r"<[\w-]+[^<>]*\st\s*=\s*[\"']")
_MOVING = ("stable", "testing", "unstable", "sid", "oldstable", "devel")
_FIRST_AUTOINSTALL = (20, 4)
_FIRST_SHORT = (15, 3)  # SLE and Leap whose YaST knows t="…"


def release(media: Media, kind: Answers, said: str | None) -> str | None:
    """The release that a kickstart is for: the medium's own if that is known, otherwise the one of the recipe.

    Where the two are of different installers, `problems` refuses them; the file is checked for the one that was said.
    """
    if kind is Answers.KICKSTART and media.family == "debian":
        return said or "kickseed"
    if kind is Answers.KICKSTART and media.family == "anaconda" and not _is_debian(said):
        return _of_medium(media.identity) or said or ANY_RELEASE
    return said


def require_architecture(media: Media, machines: str) -> None:
    """Raise Refused when the ISO's system does not run on `machines`, an architecture as QEMU calls it."""
    own = media.identity.architecture
    runs = {machines, "i686"} if machines == "x86_64" else {machines}
    if own and machines and own not in runs:
        raise Refused(
            f"this ISO ({media.identity.shown}) is for {own}, the build machines are {machines}",
            hint=f"give the ISO for {machines}, or set [qemu] emulator to qemu-system-{own}",
        )


def problems(media: Media, kind: Answers, text: str, said: str | None) -> list[AnswerProblem]:
    """What does not fit; `said` is the recipe's `release`."""
    it = media.identity
    if kind is Answers.KICKSTART:
        return [*_release(media, said), *_repositories(it, text)]
    if kind is Answers.PRESEED:
        return list(_mirrors(it, text))
    if kind is Answers.AUTOINSTALL and it.release and _numbers(it) < _FIRST_AUTOINSTALL and "Ubuntu" in it.distribution:
        what = f"the installer on this ISO ({it.shown}) does not read autoinstall"
        return [AnswerProblem(0, what, "it came with Ubuntu 20.04")]
    if kind is Answers.AUTOYAST and _old_yast(it) and _SHORT_NOTATION.search(text):
        what = f'YaST on this ISO ({it.shown}) does not know the types in t="…"'
        return [AnswerProblem(0, what, "write config:type instead; t came with SLE 15 SP3 and Leap 15.3")]
    return []


def _of_medium(it: Identity) -> str | None:
    """Pykickstart's name of the medium's release; the newest for one that it does not know yet."""
    from imageflow.iso.answers import grammar

    if not it.major or not it.distribution:
        return None
    known = grammar.release_of(f"{it.distribution} {it.major}")
    if known is not None:
        return known
    for kind, older in (("RHEL", "8"), ("F", "40")):
        if (grammar.release_of(f"{it.distribution} {older}") or "").startswith(kind) and it.major > int(older):
            return grammar.newest(kind)
    return None


def _is_debian(said: str | None) -> bool:
    return said is not None and _DEBIAN.fullmatch(said.strip()) is not None


def _release(media: Media, said: str | None) -> Iterator[AnswerProblem]:
    from imageflow.iso.answers import grammar

    if said is None:
        return
    shown, debian = media.identity.shown, _is_debian(said)
    if debian and media.family == "anaconda":
        what = f"release: {short(said)} is Debian's, but this ISO is {shown}"
        yield AnswerProblem(0, what, "remove 'release', or give Debian's ISO")
    elif not debian and media.family == "debian":
        yield AnswerProblem(
            0, f"release: {short(said)}, but this ISO is {shown}", "remove 'release', or give that system's ISO"
        )
    elif (own := _of_medium(media.identity)) is not None and grammar.release_of(said) not in (own, None):
        yield remark(0, f"release: {short(said)}, but this ISO is {shown}: it is checked for that", "correct 'release'")


def _repositories(it: Identity, text: str) -> Iterator[AnswerProblem]:
    """Repositories of another architecture or release than the medium's."""
    for number, line in enumerate(text.split("\n"), 1):
        word, _, rest = line.strip().partition(" ")
        if word not in ("url", "repo"):
            continue
        other = set(_ARCHITECTURE.findall(rest)) - {it.architecture, "i386"}
        if it.architecture and other:
            yield remark(number, f"{word} names {other.pop()}, the ISO is for {it.architecture}", "correct one of them")
        paths = _URL.findall(rest) if word == "url" else []  # other repositories number their own releases
        majors = {int(found) for path in paths for found in _MAJOR.findall(f"{path}/")}
        if it.major and majors and it.major not in majors:
            yield remark(number, f"{word} names release {majors.pop()}, the ISO is {it.shown}", "correct one of them")


def _mirrors(it: Identity, text: str) -> Iterator[AnswerProblem]:
    """A mirror of another suite or distribution than the medium's."""
    for found in _SUITE.finditer(text):
        suite = found[1].partition("-")[0].lower()
        if it.codename and suite not in (it.codename, *_MOVING):
            line = text.count("\n", 0, found.start(1)) + 1
            what = f"mirror/suite is {short(found[1])}, the ISO is {it.shown} ({it.codename})"
            yield remark(line, what, "an installer finds its own modules only in its own suite: remove it")
    for found in _FOLDER.finditer(text):
        for folder, name in (("ubuntu", "Debian"), ("debian", "Ubuntu")):
            if found[1].strip("/").lower() == folder and it.distribution.startswith(name):
                line = text.count("\n", 0, found.start(1)) + 1
                yield remark(
                    line, f"the mirror's folder is {short(found[1])}, the ISO is {it.shown}", "correct one of them"
                )


def _old_yast(it: Identity) -> bool:
    return bool(it.release) and (it.major == 42 or _numbers(it) < _FIRST_SHORT)


def _numbers(it: Identity) -> tuple[int, ...]:
    return tuple(int(part) for part in it.release.split(".") if part.isdigit())
