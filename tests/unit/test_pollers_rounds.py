"""Whose turn it is to be looked at, and what is said about trouble."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import wait

import pytest

from imageflow.background.flag import Flag
from imageflow.background.rounds import LONGEST, Rounds
from imageflow.errors import Cancelled, Unavailable
from imageflow.host.control import Control


class World:
    """Places, what is seen there, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.looks: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.rounds = Rounds(self._look, Flag(), name=lambda key: f"place {key}", clock=lambda: self.now)

    def _look(self, key: str, _control: Control) -> str:
        self.looks.append(key)
        if key in self.broken:
            raise self.broken[key]
        return f"{key} at {self.now:.0f}"

    def step(self, seconds: float = 0.0) -> list[tuple[str, str]]:
        """Time passes; everything that is looked at then is done."""
        self.now += seconds
        found = self.rounds.results()
        wait(list(self.rounds._running), 20)
        return found + self._rest()

    def _rest(self) -> list[tuple[str, str]]:
        found = []
        while self.rounds._running:
            wait(list(self.rounds._running), 20)
            found += self.rounds.results()
        return found


def test_each_in_its_own_rhythm_and_new_ones_at_once() -> None:
    world = World()
    with world.rounds as rounds:
        rounds.keep({"a": 10, "b": 25})
        assert sorted(world.step()) == [("a", "a at 0"), ("b", "b at 0")]
        rounds.keep({"a": 10, "b": 25, "c": 100})
        assert world.step(1) == [("c", "c at 1")]
        for _ in range(49):
            world.step(1)
        assert {key: world.looks.count(key) for key in "abc"} == {"a": 6, "b": 3, "c": 1}
        rounds.keep({"c": 5})
        world.step(1)
        world.step(5)
        assert {key: world.looks.count(key) for key in "abc"} == {"a": 6, "b": 3, "c": 2}
        rounds.again("c", 1)
        world.step(1)
        assert world.looks.count("c") == 3


def test_trouble_is_told_once_and_looked_at_less_and_less(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.broken["a"] = Unavailable("it is away", hint="check it")
    caplog.set_level(logging.INFO)
    with world.rounds as rounds:
        rounds.keep({"a": 10, "b": 10})
        for _ in range(1000):
            world.step(10)
        assert world.looks.count("b") == 1000, "the others go on"
        assert world.looks.count("a") < 20
        world.broken["a"] = Unavailable("it is still away")
        world.step(2 * LONGEST)
        assert caplog.text.count("place a can't be looked at: it is away (check it)") == 1
        assert "still away" not in caplog.text
        del world.broken["a"]
        world.step(2 * LONGEST)
        assert caplog.text.count("place a can be seen again") == 1
        before = world.looks.count("a")
        for _ in range(10):
            world.step(10)
        assert world.looks.count("a") == before + 10
        world.broken["a"] = Unavailable("it is away")
        world.step(10)
        assert caplog.text.count("it is away (check it)") + caplog.text.count("at: it is away\n") == 2


def test_a_bug_in_a_look_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.broken["a"] = ZeroDivisionError("oops")
    with world.rounds as rounds:
        rounds.keep({"a": 10})
        world.step()
        assert "ZeroDivisionError: oops" in caplog.text and "Traceback" in caplog.text


def test_the_end_does_not_wait_for_a_look_that_heeds_its_control() -> None:
    stop, began = Flag(), threading.Event()
    ended: list[Callable[[], None] | BaseException] = []

    def look(_key: str, control: Control) -> None:
        began.set()
        try:
            control.wait(600)
        except Cancelled as error:
            ended.append(error)
            raise

    with Rounds(look, stop, name=str) as rounds:
        rounds.keep({"a": 1})
        rounds.results()
        assert began.wait(10)
    assert len(ended) == 1


def test_more_places_than_threads_all_get_their_turn() -> None:
    world = World()
    with world.rounds as rounds:
        rounds.keep({str(n): 10.0 for n in range(200)})
        assert len(world.step()) == 200
        assert len(world.step(10)) == 200
