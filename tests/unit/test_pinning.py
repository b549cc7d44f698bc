"""Pins of wanted images: found out once for all who ask at the same time, and again when they are old."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imageflow.background import remembered
from imageflow.builds.wanted import Wanted
from imageflow.errors import RecipeError, Unavailable
from imageflow.wants import pinning
from imageflow.wants.pinning import Pinning


class Pins:
    """Pins that are counted; `gate` holds them back."""

    def __init__(self) -> None:
        self.count = 0
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)

    def __call__(self) -> Wanted:
        self.count += 1
        self.begun.release()
        assert self.gate.wait(30)
        return Wanted("web", "dib", {}, {"number": self.count}, "key", Path("/"))


def test_many_at_once_are_one_look() -> None:
    pinned, pins = Pinning(fresh=60.0, patience=30.0), Pins()
    pins.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(pinned.wanted, {"name": "web"}, pins) for _ in range(8)]
        assert pins.begun.acquire(timeout=30)
        pins.gate.set()
        assert {one.result(30).pins["number"] for one in found} == {1}
    assert pinned.wanted({"name": "other"}, pins).pins["number"] == 2


def test_old_pins_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(remembered.clock, "monotonic", lambda: now[0])
    pinned, pins = Pinning(fresh=60.0, patience=1.0), Pins()
    looks = []
    for seconds in (0.0, 59.0, 2.0, 59.0, 2.0):
        now[0] += seconds
        looks.append(pinned.wanted({"name": "web"}, pins).pins["number"])
    assert looks == [1, 1, 2, 2, 3]


def test_what_fails_is_tried_again() -> None:
    pinned, pins = Pinning(fresh=60.0, patience=1.0), Pins()

    def wrong() -> Wanted:
        raise RecipeError("no")

    for _ in range(2):
        with pytest.raises(RecipeError):
            pinned.wanted({"name": "web"}, wrong)
    assert pinned.wanted({"name": "web"}, pins).pins["number"] == 1


def test_nobody_waits_for_ever_and_few_look_at_a_time() -> None:
    pinned, pins = Pinning(fresh=60.0, patience=0.2), Pins()
    pins.gate.clear()
    with ThreadPoolExecutor(9) as pool:
        slow = [pool.submit(pinned.wanted, {"name": str(number)}, pins) for number in range(8)]
        for _ in range(8):
            assert pins.begun.acquire(timeout=30)
        with pytest.raises(Unavailable, match="being pinned"):
            pinned.wanted({"name": "0"}, pins)
        with pytest.raises(Unavailable, match="8 images"):
            pinned.wanted({"name": "another"}, pins)
        pins.gate.set()
        for one in slow:
            one.result(30)


def test_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning, "_MOST", 2)
    pinned, pins = Pinning(fresh=60.0, patience=1.0), Pins()
    for name, looks in (("a", 1), ("b", 2), ("a", 2), ("c", 3), ("b", 3), ("a", 4)):
        pinned.wanted({"name": name}, pins)
        assert pins.count == looks
