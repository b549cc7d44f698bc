"""Which of the many long tests run for a change: a slice of them; the next change runs the next slice.

    @pytest.mark.sliced                              # of its module's tests with this mark, every tenth
    @pytest.mark.sliced(of=3)                        # every third; of=1: all of them, always
    @pytest.mark.sliced(of=70, group="cloud kills")  # of the tests of many modules

So ten changes in a row run every test of a group that is cut into ten slices or fewer, and each change runs at least one test
of every group. Tests that are repeated for each database are cut by database: those in tests/flows and tests/chaos that are
not sliced run on SQLite and on one of the servers, which take turns.

A change is a commit: its number is the count of commits up to it. So a change has the same slice on every machine and in
every run. A CI that tests several commits in one run can count its runs, and set IMAGEFLOW_SLICE to the count: then any ten
of its runs in a row run everything. A tree without its history takes the number of the day.

Tests that are not in the slice are `slow` in this run: `-m "not slow"` leaves them out, and each can be run by its id at any
time. IMAGEFLOW_SLICE=NUMBER repeats a run's choice. IMAGEFLOW_SLICE=all runs everything, with many examples of each property
(see tests/examples.py). `python -m tests.slices [NUMBER]` lists what ten changes run, and fails when they miss a test.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

VARIABLE = "IMAGEFLOW_SLICE"
CHANGES = 10  # in a row, these run everything that is not cut into more slices
SERVERS = ("postgresql", "mariadb")
ONE_SERVER = ("flows", "chaos")  # folders whose tests go through SQLite and one server
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Choice:
    """The number of this run's slice, and where the number is from."""

    number: int
    whence: str
    everything: bool = False


@functools.cache
def choice() -> Choice:
    """This run's slice; xdist's processes get the same one through the environment."""
    said = os.environ.get(VARIABLE, "")
    if said.isascii() and said.isdigit():
        return Choice(int(said), f"from {VARIABLE}")
    if said not in ("", "all"):
        raise pytest.UsageError(f"{VARIABLE}={said}: a number is wanted, or 'all'")
    number, whence = _commits(), "the number of commits"
    if number is None:
        number, whence = int(time.time() // 86400), "of the day, for there is no history of commits"
    os.environ[VARIABLE] = said or str(number)
    return Choice(number, whence, said == "all")


def _commits() -> int | None:
    """The number of commits up to HEAD; None when some are missing here."""
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT)]
    if not (ROOT / ".git").exists():
        return None
    try:
        words = subprocess.check_output(
            [*git, "rev-parse", "--is-shallow-repository"], text=True, stderr=subprocess.DEVNULL
        )
        if words.strip() != "false":
            return None
        return int(subprocess.check_output([*git, "rev-list", "--count", "HEAD"], stderr=subprocess.DEVNULL))
    except (OSError, subprocess.CalledProcessError):
        return None


def chosen(places: int, of: int, number: int) -> range:
    """The places of a group, cut into so many slices, that are in the slice of this number: at least one."""
    slices = min(of, places)
    return range(number % slices, places, slices)


def server(number: int) -> str:
    """The database server whose turn it is."""
    return SERVERS[number % len(SERVERS)]


@dataclass
class Group:
    """Tests that take turns."""

    name: str
    of: int
    items: list[pytest.Item] = field(default_factory=list)

    def chosen(self, number: int) -> list[pytest.Item]:
        return [self.items[place] for place in chosen(len(self.items), self.of, number)]

    @property
    def changes(self) -> int:
        """The number of changes after which each test has run."""
        return min(self.of, len(self.items))


def groups(items: Iterable[pytest.Item]) -> list[Group]:
    """The groups of those tests that are sliced, in the order of the tests."""
    found: dict[tuple[str, int], Group] = {}
    for item in items:
        mark = item.get_closest_marker("sliced")
        if mark is None or item.get_closest_marker("slow"):
            continue
        name, of = mark.kwargs.get("group") or item.nodeid.partition("::")[0], mark.kwargs.get("of", CHANGES)
        found.setdefault((name, of), Group(name, of)).items.append(item)
    return list(found.values())


def is_on_another_server(item: pytest.Item, number: int) -> bool:
    """Whether a test, not of SQL itself, uses a server whose turn it is not."""
    kind = getattr(item, "callspec", None) and item.callspec.params.get("database_url")  # type: ignore[attr-defined]
    if kind not in SERVERS or item.get_closest_marker("sliced"):
        return False
    return item.path.relative_to(ROOT / "tests").parts[0] in ONE_SERVER and kind != server(number)


def left_out(items: Sequence[pytest.Item], number: int) -> list[pytest.Item]:
    """The tests that are not in the slice of this number."""
    out = [item for item in items if is_on_another_server(item, number)]
    for group in groups(items):
        wanted = {id(item) for item in group.chosen(number)}
        out += [item for item in group.items if id(item) not in wanted]
    return out


# -- as a plugin of pytest -----------------------------------------------------------------------


def pytest_configure() -> None:
    choice()  # before xdist starts others


@pytest.hookimpl(tryfirst=True)  # before -m is looked at
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is not in the slice as slow; but not when tests are named, for those are wanted."""
    if choice().everything or config.option.keyword or any("::" in argument for argument in config.args):
        return
    for item in left_out(items, choice().number):
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)  # prints it first
def pytest_report_header(config: pytest.Config) -> str | list[str]:
    """Which slice, and how to run it again."""
    this = choice()
    if this.everything:
        return "slice: all of them"
    program = sys.argv[0] if Path(sys.argv[0]).stem != "__main__" else "python -m pytest"
    command = f"{VARIABLE}={this.number} {program} {shlex.join(config.invocation_params.args)}"
    return [
        f"slice {this.number}: {this.whence}; once more: {command.strip()}",
        f"slices {this.number + 1} to {this.number + CHANGES - 1} make the rest; {VARIABLE}=all is everything",
    ]


# -- as a command --------------------------------------------------------------------------------


class _Collected:
    items: Sequence[pytest.Item] = ()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = session.items


def _collect() -> list[pytest.Item]:
    """All tests, except those that are slow in every run."""
    os.environ[VARIABLE] = "all"
    collected, said = _Collected(), io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", str(ROOT / "tests")], [collected])
    if code:
        raise SystemExit(said.getvalue()[-3000:])
    return [item for item in collected.items if not item.get_closest_marker("slow")]


def main(arguments: Sequence[str]) -> int:
    """List what each of ten changes runs; -> 1 when a test that should be in one of them is in none."""
    first, items = int(arguments[0]) if arguments else 0, _collect()
    parts = groups(items)
    for number in range(first, first + CHANGES):
        ran = [item.nodeid for group in parts for item in group.chosen(number)]
        print(f"slice {number}: {len(ran)} tests, and {server(number)}", *ran, sep="\n  ")
    print()
    for group in parts:
        sizes = {len(group.chosen(number)) for number in range(first, first + group.changes)}
        few = " to ".join(map(str, sorted(sizes)))
        print(f"{group.name}: {few} of {len(group.items)} at a time, all within {group.changes} changes")
    finer = {item.nodeid for group in parts if group.of > CHANGES for item in group.items}
    missed = {item.nodeid for item in items} - finer
    for number in range(first, first + CHANGES):
        out = {item.nodeid for item in left_out(items, number)}
        missed &= out
    print(f"\n{len(items)} tests; {len(finer)} are cut finer; of the others ten changes miss {len(missed)}")
    print(*sorted(missed), sep="\n")
    return 1 if missed else 0


if __name__ == "__main__":
    from tests import slices  # the module that pytest has loaded

    sys.exit(slices.main(sys.argv[1:]))
