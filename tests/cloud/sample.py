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


def rotating(group: str, cases: Sequence[Any], *, at_once: int = 1) -> list[Any]:
    """The cases as pytest's parameters: all are `slow`, but those that are in this run's sample."""
    first = zlib.crc32(f"{group} {NUMBER}".encode())
    chosen = {(first + number) % len(cases) for number in range(at_once)}
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if at in chosen else pytest.mark.slow)
        for at, case in enumerate(cases)
    ]
