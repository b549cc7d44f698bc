"""What is kept of an unattended machine has a bound: its console, and its screenshots."""

from __future__ import annotations

import random
from pathlib import Path

from imageflow.flight.record import Record, screenshots

MOST = 100_000


def test_a_console_has_an_end(tmp_path: Path) -> None:
    record = Record(tmp_path, "main", most=MOST)
    for start in range(0, 3 * MOST, 1000):
        record.console(b"x" * 1000, start)
    assert (tmp_path / "main.console.log").stat().st_size == MOST


def test_screenshots_have_a_number_and_a_size(tmp_path: Path) -> None:
    dice = random.Random(1)
    record = Record(tmp_path, "main", most=MOST)
    for _ in range(80):
        record.end(lambda: dice.randbytes(100))
    assert len(screenshots(tmp_path)) == 50
    last = b""
    for _ in range(20):
        last = dice.randbytes(MOST // 5)
        record.end(lambda picture=last: picture)  # type: ignore[misc]
        assert sum(file.stat().st_size for file in screenshots(tmp_path)) <= MOST
    assert screenshots(tmp_path)[-1].read_bytes() == last
    record.end(lambda: b"y" * 2 * MOST)
    assert [len(file.read_bytes()) for file in screenshots(tmp_path)] == [2 * MOST], (
        "the last one is kept however large"
    )
