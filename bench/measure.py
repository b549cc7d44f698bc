"""Measures two sides in turn, so that noise affects both, and reports the results."""

from __future__ import annotations

import operator
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Result:
    """One ratio with its goal."""

    name: str
    ours: float
    theirs: float
    unit: str
    goal: float
    at_least: bool = False  # the goal is a lower bound; an upper one otherwise
    notes: tuple[str, ...] = ()
    failed: str = ""  # why it does not count, whatever the ratio
    spread: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs if self.theirs else float("inf")

    @property
    def passed(self) -> bool:
        compare = operator.ge if self.at_least else operator.le
        return not self.failed and compare(self.ratio, self.goal)


@dataclass(slots=True)
class Side:
    """One side of a ratio: the work, and its value in each round."""

    name: str
    run: Callable[[], float]
    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return f"{self.name}: " + " ".join(f"{value:.4g}" for value in self.values)


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Work measured in seconds of wall time."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run


# A small intermediate process: a child inherits its parent's peak and keeps it across exec.
_SMALL = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status) != 0)
"""


def peak_memory(*command: object) -> float:
    """MiB that a command (an absolute path and its arguments) had at most at a time; it must succeed.

    The measuring process is not included; the result is at least that of a bare Python.
    """
    argv = [sys.executable, "-I", "-S", "-c", _SMALL, *map(str, command)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.splitlines()[-1]) / 1024


def alternate(sides: Sequence[Side], rounds: int, warm_up: int = 1) -> None:
    """Run the sides in turn, in changing order; the first `warm_up` rounds don't count."""
    for number in range(-warm_up, rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            value = side.run()
            if number >= 0:
                side.values.append(value)
                print(f"  {side.name:<44} {value:10.4g}", flush=True)


def table(results: Sequence[Result]) -> str:
    """All ratios with their goals."""
    rows = [("", "what", "ours", "other", "unit", "ratio", "goal")]
    for result in results:
        rows.append(
            (
                "pass" if result.passed else "FAIL",
                result.name,
                f"{result.ours:.4g}",
                f"{result.theirs:.4g}",
                result.unit,
                f"{result.ratio:.3f}",
                f"{'>=' if result.at_least else '<='} {result.goal:g}",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row, result in zip(rows, [None, *results], strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if result is not None:
            lines += [f"      {note}" for note in (*([result.failed] if result.failed else ()), *result.notes)]
    return "\n".join(lines)
