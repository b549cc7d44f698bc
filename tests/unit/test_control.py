"""The limits of a step are its own."""

from __future__ import annotations

import pytest

from imageflow.errors import TimedOut
from imageflow.host.control import Control


def test_waiting_for_others_is_not_the_steps_own_time() -> None:
    control = Control()
    control.begin_step("boot-machine", 0.2)
    with control.not_counted():
        control.wait(0.3)
    control.check()
    with pytest.raises(TimedOut, match="boot-machine"):
        control.wait(0.3)


def test_waiting_for_others_ends_with_the_build() -> None:
    control = Control()
    control.begin_step("boot-machine", 10)
    control.stop(TimedOut("enough"))
    with pytest.raises(TimedOut, match="enough"), control.not_counted():
        control.wait(5)
