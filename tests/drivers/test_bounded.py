"""Calls in a child process of what may take too much: the child ends, we go on."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from imageflow.errors import Cancelled, CommandFailed, Exceeded, NotFound, TimedOut
from imageflow.host import bounded
from imageflow.host.bounded import Bounds
from imageflow.host.control import Control
from tests.small import costly

SMALL = Bounds(memory=256 << 20, processor=2, wall=20.0, output=1 << 20)


def call(function: Any, *arguments: Any, bounds: Bounds = SMALL, control: Control | None = None) -> Any:
    return bounded.call(function, *arguments, control=control or Control(), what="the look at it", bounds=bounds)


def test_the_result_comes_and_what_is_printed_is_none() -> None:
    assert call(costly.echo, 1, "ä", {"a": [None]}) == [1, "ä", {"a": [None]}]


@pytest.mark.parametrize(
    ("function", "arguments", "says"),
    [
        (costly.memory, (1 << 30,), "took more than 256 MiB of memory"),
        (costly.processor, (), "took more than 2 s of processor time"),
        (costly.output, (2 << 20,), "took more than 1 MiB of output"),
        (costly.death, (), "was ended by SIGKILL"),
    ],
)
def test_too_much(function: Any, arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(Exceeded, match=f"^the look at it {says}") as caught:
        call(function, *arguments)
    assert "smaller or simpler" in caught.value.hint


def test_what_only_waits_is_ended_too() -> None:
    with pytest.raises(Exceeded, match="the look at it took more than 1 s"):
        call(costly.wall, bounds=Bounds(wall=1.0))


def test_errors_come_as_they_are() -> None:
    with pytest.raises(NotFound, match="there is no such thing") as caught:
        call(costly.fails)
    assert caught.value.hint == "look elsewhere"
    with pytest.raises(CommandFailed, match="exit code 1") as bug:
        call(costly.bug)
    assert "ZeroDivisionError: a bug of ours" in bug.value.hint


def test_a_stop_from_outside_is_no_fault_of_what_was_given() -> None:
    control = Control()
    threading.Timer(1.0, control.stop, [Cancelled()]).start()
    with pytest.raises(Cancelled):
        call(costly.wall, control=control)
    late = Control(time.monotonic() + 1)
    with pytest.raises(TimedOut, match="the build took longer"):
        call(costly.wall, control=late)
