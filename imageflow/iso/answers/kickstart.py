"""Kickstarts: Anaconda's by pykickstart's grammar of a release, and Debian's dialect by kickseed's own rules."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from imageflow.iso import Additions
from imageflow.iso.answers import kickseed
from imageflow.iso.answers.problem import Problem, key_commands, marker_command
from imageflow.recipe.problems import did_you_mean, short

_ENDS = ("reboot", "halt", "shutdown", "poweroff")
_SECTIONS = (
    "%pre",
    "%pre-install",
    "%post",
    "%packages",
    "%addon",
    "%onerror",
    "%traceback",
    "%certificate",
    "%anaconda",
)
_LOGINS = ("rootpw", "user", "sshkey")
_STORAGE = ("autopart", "part", "partition", "reqpart", "mount", "raid", "logvol", "btrfs", "snapshot")


def check(text: str, release: str | None) -> list[Problem]:
    """What the installer's grammar refuses, and what it would certainly ask."""
    if _is_kickseed(text, release):
        return kickseed.check(text)
    from pykickstart import version

    name = _release(release)
    if name is None:
        names = sorted(version.versionMap)
        hint = did_you_mean(str(release).upper(), [*names, "KICKSEED"], f"for example RHEL9, {names[-1]}, or kickseed")
        return [Problem(0, f"{short(release)!r} is not a release whose kickstart grammar is known", hint)]
    found = _parsed(text, name)
    if not found:
        found = list(_questions(text))
    return found


def compose(text: str, additions: Additions) -> str:
    """The user's file, which powers the machine off and ends with our %post."""
    debian = _is_kickseed(text, None)
    lines = ["poweroff"]
    for line, section in _sections(text):
        word = line.split(None, 1)[0] if line.strip() else ""
        if not section and word in _ENDS:
            continue
        if word == "%post" and not debian and "--erroronfail" not in line:
            line = line.replace("%post", "%post --erroronfail", 1)
        lines.append(line)
        if word == "%post" and debian and not re.search(r"--(interpreter|nochroot)", line):
            lines.append(f"trap '[ $? = 0 ] || touch {kickseed.FAILED}' EXIT")
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


def _is_kickseed(text: str, release: str | None) -> bool:
    """Debian's dialect: it is said to be, or it has the command that only Debian has."""
    if release is not None:
        return release.lower() == "kickseed"
    sections = list(_sections(text))
    if any(not section and line.split(None, 1)[:1] == ["preseed"] for line, section in sections):
        return True
    starts = any(line.lstrip().startswith(("%post", "%packages", "%pre")) for line, _ in sections)
    return starts and not any(line.strip() == "%end" for line, _ in sections)


def _release(release: str | None) -> str | None:
    from pykickstart import version

    if release is None:
        return str(version.versionToString(version.DEVEL, skipDevel=True))
    name = next((name for name in version.versionMap if name.lower() == release.strip().lower()), None)
    return None if name is None else str(version.versionToString(version.versionMap[name], skipDevel=True))


def _grammar(release: str) -> Any:
    """Pykickstart's handler; its own way to it puts a folder on sys.path each time."""
    module = importlib.import_module(f"pykickstart.handlers.{release.lower()}")
    return getattr(module, f"{release}Handler")()


def _parsed(text: str, release: str) -> list[Problem]:
    """Every error of the grammar; nothing that the file names is read or fetched."""
    import contextlib
    import io
    import warnings

    from pykickstart import parser
    from pykickstart.errors import KickstartError

    found: list[Problem] = []

    class Parser(parser.KickstartParser):  # type: ignore[misc]
        def _tryFunc(self, fn: Callable[[], Any]) -> None:  # noqa: N802  # pykickstart's name: it prints the errors
            try:
                fn()
            except KickstartError as error:
                found.append(_problem(error))
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                found.append(Problem(0, short(error, 300)))

    reader = Parser(_grammar(release), followIncludes=False, errorsAreFatal=False, unknownSectionIsFatal=True)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            reader.readKickstartFromString(text)
        except KickstartError as error:
            found.append(_problem(error))
        except ValueError as error:  # of shlex, which does not know the line
            found.append(Problem(_line_of(text), f"{short(error)}", "close the quote"))
    return found


def _problem(error: Any) -> Problem:
    message = short(" ".join(str(getattr(error, "value", "") or error).split()), 300)
    message = re.sub(r"^The following problem occurred on line \d+ of the kickstart file: ", "", message)
    line = getattr(error, "lineno", 0) or 0
    hint = "add %end at the section's end" if "does not end with %end" in message else ""
    if "Unknown command: preseed" in message:
        hint = "Debian's kickstarts are checked with 'release: kickseed'"
    return Problem(line, message, hint)


def _line_of(text: str) -> int:
    """The first line of the commands that a shell-like reader can't split."""
    import shlex

    for number, (line, section) in enumerate(_sections(text), 1):
        if not section:
            try:
                shlex.split(line, comments=True)
            except ValueError:
                return number
    return 0


def _questions(text: str) -> Iterator[Problem]:
    """What Anaconda certainly asks somebody, if nothing is included or made at run time."""
    lines = list(_sections(text))
    if any(line.lstrip().startswith(("%include", "%ksappend", "%pre")) for line, _ in lines):
        return
    words = {line.split()[0] for line, section in lines if not section and line.strip()}
    if not words & set(_LOGINS):
        yield Problem(0, "nobody could log in: the installer would ask for a password", "add 'rootpw --lock' or a user")
    if not words & set(_STORAGE):
        yield Problem(
            0, "the disk is not said how to be used: the installer would ask", "add 'clearpart --all' and 'autopart'"
        )


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """(line, section it is inside of or ''); the lines that begin and end a section are outside."""
    section = ""
    for line in text.rstrip("\n").split("\n"):
        word = line.split(None, 1)[0] if line.strip() else ""
        if word == "%end":
            section = ""
            yield line, ""
        elif word in _SECTIONS:
            yield line, ""
            section = word
        else:
            yield line, section
