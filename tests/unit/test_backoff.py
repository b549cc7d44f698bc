"""Waits that grow with each failure, up to a limit, and begin anew after a success."""

from __future__ import annotations

import time

from imageflow.background.backoff import Backoff
from imageflow.background.flag import Flag


def test_waits_grow_to_the_most_and_begin_anew() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0] and backoff.failures == 5
    backoff.reset()
    assert backoff.failures == 0 and backoff.next() == 0.5


def test_what_is_asked_for_a_number_of_failures_counts_none() -> None:
    backoff = Backoff(1.0, 60.0, factor=3.0)
    assert [backoff.after(failures) for failures in (0, 1, 2, 3, 4, 5)] == [1.0, 1.0, 3.0, 9.0, 27.0, 60.0]
    assert backoff.failures == 0


def test_the_first_wait_is_not_longer_than_the_most() -> None:
    assert Backoff(7200.0, 3600.0).next() == 3600.0


def test_years_of_failures_are_no_overflow() -> None:
    assert Backoff(1.0, 600.0, factor=10.0).after(10**9) == 600.0


def test_chance_takes_away_a_part_of_each_wait() -> None:
    backoff = Backoff(1.0, 8.0, jitter=0.5)
    for failures, longest in ((1, 1.0), (2, 2.0), (9, 8.0)):
        found = [backoff.after(failures) for _ in range(300)]
        assert all(longest / 2 <= one <= longest for one in found)
        assert max(found) - min(found) > longest / 4


def test_a_wait_ends_with_the_flag() -> None:
    stop, began = Flag(), time.monotonic()
    backoff = Backoff(0.05, 60.0, factor=1200.0)
    backoff.wait(stop)
    assert time.monotonic() - began >= 0.05
    stop.set()
    backoff.wait(stop)  # of a minute, otherwise
    assert backoff.failures == 2 and time.monotonic() - began < 30
