"""Kickstarts: Anaconda's by pykickstart's grammar of a release, Debian's dialect by kickseed's rules."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imageflow.iso import Additions
from imageflow.iso.answers import kickseed
from imageflow.iso.answers.kickseed import ANY_RELEASE
from imageflow.iso.answers.problem import AnswerProblem, key_commands, marker_command, remark
from imageflow.iso.answers.sections import NAMES, sections
from imageflow.recipe.problems import short

_ENDS = ("reboot", "halt", "shutdown", "poweroff")
_LOGINS = ("rootpw", "user", "sshkey")
_STORAGE = ("autopart", "part", "partition", "reqpart", "mount", "raid", "logvol", "btrfs", "snapshot")
_MOST = 40  # errors of the newest grammar in a file that an older one may take
_VERSION = re.compile(r"^#version=(\w+)", re.MULTILINE)
_OLDER = ("RHEL10", "RHEL9", "RHEL8", "RHEL7", "RHEL6")  # tried when no release is said, after the newest


def check(text: str, release: str | None) -> list[AnswerProblem]:
    """What the installer's grammar refuses, what the installer would certainly ask, and what it warns of."""
    if is_kickseed(text, release):
        return kickseed.check(text)
    from imageflow.iso.answers import grammar

    if not grammar.available():
        found = [remark(0, f"the kickstart {grammar.MISSING}", grammar.WAY_OUT)]
    elif release in (None, ANY_RELEASE):
        found = list(_fitting(text))
    elif (name := grammar.release_of(str(release))) is not None:
        found = grammar.problems(text, name)
    else:
        message = f"{short(release)!r} is not a release whose kickstart grammar is known"
        return [AnswerProblem(0, message, grammar.suggestion(str(release)))]
    found += _fetched(text)
    if all(problem.remark for problem in found):
        found += _questions(text)
    return found


def compose(text: str, additions: Additions, release: str | None) -> str:
    """The user's file, with a power-off at the end and our %post as the last."""
    debian = is_kickseed(text, release)
    lines = ["poweroff", *(_for_kickseed(text) if debian else _for_anaconda(text))]
    commands = ["set -e", *key_commands(additions)]
    if debian:
        commands.insert(1, f"if [ -e {kickseed.FAILED} ]; then rm {kickseed.FAILED}; exit 1; fi")
    else:
        commands += [
            "if command -v restorecon >/dev/null; then restorecon -R /root/.ssh; fi",
            f'if command -v grubby >/dev/null; then grubby --update-kernel=ALL --args="console={additions.console}"; fi',
        ]
    header = "%post" if debian else "%post --erroronfail"
    lines += ["", "# added by imageflow", header, *commands, marker_command(additions)]
    if not debian:
        lines.append("%end")
    return "\n".join(lines) + "\n"


def _for_anaconda(text: str) -> Iterator[str]:
    """The user's lines, with scripts that end the installation when they fail."""
    for line, section in sections(text):
        word = line.split(None, 1)[0] if line.strip() else ""
        if not section and word in _ENDS:
            continue
        if word == "%post" and "--erroronfail" not in line:
            line = line.replace("%post", "%post --erroronfail", 1)
        yield line


def _for_kickseed(text: str) -> Iterator[str]:
    """The user's lines for an installer that knows no %end: commands first, then its sections, whose failures are noted."""
    below: list[str] = []
    head = ""
    for line, section in sections(text):
        word = line.split(None, 1)[0] if line.strip() else ""
        if not section and word in NAMES:
            head = word
        if word == "%end" and not section:
            head = ""
        elif not head and word not in _ENDS:
            yield line
        elif head in kickseed.SECTIONS:
            below.append(line)
            if not section and word == "%post" and not re.search(r"--(interpreter|nochroot)", line):
                below.append(f"trap '[ $? = 0 ] || touch {kickseed.FAILED}' EXIT")
    yield from below


def is_kickseed(text: str, release: str | None) -> bool:
    """Whether it is Debian's dialect: declared as such, with the command that only Debian has, or right only there."""
    if release is not None:
        return kickseed.RELEASE.fullmatch(release.strip()) is not None
    lines = list(sections(text))
    if any(not section and line.split(None, 1)[:1] == ["preseed"] for line, section in lines):
        return True
    starts = any(line.lstrip().startswith(("%post", "%packages", "%pre")) for line, _ in lines)
    if not starts or any(line.strip() == "%end" for line, _ in lines):
        return False
    return not kickseed.check(text)


def _fitting(text: str) -> Iterator[AnswerProblem]:
    """The problems in the grammar that takes the file, or most of it: the newest, or else an older release's.

    The one that Anaconda writes into the files that it leaves, '#version=RHEL9', is tried before the other older ones.
    """
    from imageflow.iso.answers import grammar

    found = {grammar.newest(): grammar.problems(text, grammar.newest())}
    errors = {name: [p for p in all_of if not p.remark] for name, all_of in found.items()}
    if not 0 < len(errors[grammar.newest()]) <= _MOST:
        yield from found[grammar.newest()]
        return
    written = _VERSION.search(text)
    named = grammar.release_of(written[1]) if written else None
    found |= grammar.problems_by_release(text, dict.fromkeys(([named] if named else []) + [*_OLDER]))
    for name, all_of in found.items():
        errors[name] = [problem for problem in all_of if not problem.remark]
    best = min(errors, key=lambda name: len(errors[name]))
    yield from found[best]
    if best == grammar.newest():
        return
    first = errors[grammar.newest()][0]
    hint = f"say which system it installs, such as release: {best.lower()}; and 'recipe validate' checks it for that"
    yield remark(first.line, f"newer releases refuse this ({first.message}); it is checked as for {best}", hint)


def _fetched(text: str) -> Iterator[AnswerProblem]:
    """What is fetched while it installs."""
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if len(words) > 1 and words[0] in ("%include", "%ksappend") and "://" in words[1]:
            what = f"{words[0]} {short(words[1])}: what the installer fetches there is not pinned"
            yield remark(number, what, "a change of it makes no new build; write its lines here")


def _questions(text: str) -> Iterator[AnswerProblem]:
    """What Anaconda would certainly ask, if nothing is included or generated at run time."""
    lines = list(sections(text))
    if any(line.lstrip().startswith(("%include", "%ksappend", "%pre")) for line, _ in lines):
        return
    words = {line.split()[0] for line, section in lines if not section and line.strip()}
    if not words & set(_LOGINS):
        yield AnswerProblem(
            0, "no login is possible: the installer would ask for a password", "add 'rootpw --lock' or a user"
        )
    if not words & set(_STORAGE):
        yield AnswerProblem(
            0, "the use of the disk is not specified: the installer would ask", "add 'clearpart --all' and 'autopart'"
        )
