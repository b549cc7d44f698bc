"""Which of the long tests are in the sample of this run: it rotates, so that all come round.

IMAGEFLOW_SAMPLE=NUMBER repeats a run's choice; a test that failed is found by its own id in any run.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Sequence
from typing import Any

import pytest

NUMBER = os.environ.setdefault("IMAGEFLOW_SAMPLE", str(int(time.time() // 60)))


def turn(number: int, of: int) -> bool:
    """Whether it is this one's turn, of so many that take turns."""
    return int(NUMBER) % of == number


def thin_out(items: Sequence[pytest.Item]) -> None:
    """Of a module that says `SAMPLE`, so many of its tests are in this run's sample; the others are `slow`.

    They take turns: the next run's sample begins where this one's ends.
    """
    modules: dict[Any, list[pytest.Item]] = {}
    for item in items:
        module = getattr(item, "module", None)
        if getattr(module, "SAMPLE", None) is not None and not item.get_closest_marker("slow"):
            modules.setdefault(module, []).append(item)
    for module, tests in modules.items():
        first = int(NUMBER) * module.SAMPLE % len(tests)
        chosen = {(first + number) % len(tests) for number in range(module.SAMPLE)}
        for number, item in enumerate(tests):
            if number not in chosen:
                item.add_marker(pytest.mark.slow)


def rotating(group: str, cases: Sequence[Any], *, chosen: bool = True) -> list[Any]:
    """The cases as pytest's parameters: all are `slow`, but one that is in this run's sample, if it is the group's turn."""
    at = zlib.crc32(f"{group} {NUMBER}".encode()) % len(cases) if chosen else None
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if number == at else pytest.mark.slow)
        for number, case in enumerate(cases)
    ]
