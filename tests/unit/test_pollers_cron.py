"""Due times: against an oracle that goes through every minute, and at the clock changes themselves."""

from __future__ import annotations

import datetime
import zoneinfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imageflow.errors import BadInput
from imageflow.listeners import cron

UTC = datetime.UTC
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
MINUTE = 60.0


def at(text: str, zone: datetime.tzinfo = UTC) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


class Oracle:
    """What is due minute by minute, from the words of Debian's cron(8) about daylight saving time."""

    def __init__(self, minutes: set[int] | None, hours: set[int] | None, weekdays: set[int] | None) -> None:
        self.minutes, self.hours, self.weekdays = minutes, hours, weekdays

    @property
    def expression(self) -> str:
        def text(values: set[int] | None) -> str:
            return "*" if values is None else ",".join(map(str, sorted(values)))

        return f"{text(self.minutes)} {text(self.hours)} * * {text(self.weekdays)}"

    def _on_wall(self, wall: datetime.datetime) -> bool:
        return (
            (self.minutes is None or wall.minute in self.minutes)
            and (self.hours is None or wall.hour in self.hours)
            and (self.weekdays is None or wall.isoweekday() % 7 in self.weekdays)
        )

    def times(self, zone: zoneinfo.ZoneInfo, start: float, end: float) -> list[float]:
        """In (start, end]."""
        fixed = self.minutes is not None and self.hours is not None
        found = set()
        if not fixed:  # real time: every minute that there is, by what the wall clock shows then
            stamp = (start // MINUTE + 1) * MINUTE
            while stamp <= end:
                if self._on_wall(datetime.datetime.fromtimestamp(stamp, zone)):
                    found.add(stamp)
                stamp += MINUTE
            return sorted(found)
        wall = datetime.datetime.fromtimestamp(start, zone).replace(tzinfo=None, second=0, microsecond=0)
        wall -= datetime.timedelta(hours=4)
        last = datetime.datetime.fromtimestamp(end, zone).replace(tzinfo=None) + datetime.timedelta(hours=4)
        while wall <= last:  # every minute that a wall clock without changes would show
            if self._on_wall(wall):
                real = wall.replace(tzinfo=zone)  # the first of two
                while datetime.datetime.fromtimestamp(real.timestamp(), zone).replace(tzinfo=None) != real.replace(
                    tzinfo=None
                ):
                    real += datetime.timedelta(minutes=1)  # skipped: right after the gap
                found.add(real.timestamp())
            wall += datetime.timedelta(minutes=1)
        return sorted(stamp for stamp in found if start < stamp <= end)


ORACLES = st.builds(
    Oracle,
    st.none() | st.sets(st.integers(0, 59), min_size=1, max_size=4),
    st.none() | st.sets(st.integers(0, 23), min_size=1, max_size=5),
    st.none() | st.sets(st.integers(0, 6), min_size=1, max_size=3),
)
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Kolkata", "Africa/Cairo", "America/Santiago"]
)
# around the changes of 2026 in these zones, some of which are at midnight, and anywhere
MOMENTS = st.one_of(
    st.integers(int(at("2026-03-07T00:00")), int(at("2026-03-09T12:00"))),
    st.integers(int(at("2026-03-28T12:00")), int(at("2026-03-29T12:00"))),
    st.integers(int(at("2026-04-04T00:00")), int(at("2026-04-05T12:00"))),
    st.integers(int(at("2026-04-23T12:00")), int(at("2026-04-24T12:00"))),
    st.integers(int(at("2026-09-05T12:00")), int(at("2026-09-06T12:00"))),
    st.integers(int(at("2026-10-29T12:00")), int(at("2026-10-30T12:00"))),
    st.integers(int(at("2026-10-24T12:00")), int(at("2026-10-25T12:00"))),
    st.integers(int(at("2026-01-01T00:00")), int(at("2026-12-31T12:00"))),
).map(float)


@given(ORACLES, ZONES, MOMENTS, st.floats(0, 40 * 3600, allow_subnormal=False))
@example(Oracle({30}, {2}, None), "Europe/Berlin", at("2026-03-29T00:00"), 8 * 3600.0)  # skipped
@example(Oracle({15, 45}, {2}, None), "Europe/Berlin", at("2026-03-29T00:00"), 8 * 3600.0)  # two of them
@example(Oracle({30}, {2}, None), "Europe/Berlin", at("2026-10-25T00:40"), 8 * 3600.0)  # repeated, from between
@example(Oracle({30}, None, None), "Europe/Berlin", at("2026-10-24T23:00"), 5 * 3600.0)  # every hour: both of them
@example(Oracle(None, {0}, {0}), "America/Santiago", at("2026-09-06T00:00"), 8 * 3600.0)  # midnight is skipped
@example(Oracle(None, {1}, {0}), "America/Santiago", at("2026-09-06T00:00"), 8 * 3600.0)  # the hour after it is not
@example(Oracle(None, {0, 23}, None), "America/Santiago", at("2026-04-04T12:00"), 30 * 3600.0)  # 23:00 comes twice
def test_due_is_the_last_that_has_come_and_counts_the_others(
    oracle: Oracle, zone_name: str, last: float, passed: float
) -> None:
    zone, now = zoneinfo.ZoneInfo(zone_name), last + passed
    wanted = oracle.times(zone, last, now)
    found = cron.due(oracle.expression, zone, last, now)
    if not wanted:
        assert found is None
    else:
        assert found == (wanted[-1], min(len(wanted) - 1, cron.COUNTED))


@given(ORACLES, ZONES, MOMENTS, st.lists(st.floats(1, 7200, allow_subnormal=False), max_size=8), st.floats(0, 5000))
def test_in_steps_each_due_time_fires_once_or_is_counted(
    oracle: Oracle, zone_name: str, start: float, steps: list[float], jitter: float
) -> None:
    zone = zoneinfo.ZoneInfo(zone_name)
    last = now = start
    fired, counted = [], 0
    for step in steps:
        now += step
        found = cron.due(oracle.expression, zone, last, now, jitter=jitter, key="web")
        if found:
            last, missed = found
            fired.append(last)
            counted += missed
            assert last + cron.delay("web", last, jitter) <= now
    assert fired == sorted(set(fired))
    assert len(fired) + counted == len(oracle.times(zone, start, last))


@given(ORACLES, ZONES, MOMENTS, st.floats(0, 7200, allow_subnormal=False), st.floats(0, 7200))
def test_nothing_is_due_before_upcoming(
    oracle: Oracle, zone_name: str, last: float, passed: float, jitter: float
) -> None:
    zone, now = zoneinfo.ZoneInfo(zone_name), last + passed
    found = cron.due(oracle.expression, zone, last, now, jitter=jitter, key="web")
    last = found[0] if found else last
    again = cron.upcoming(oracle.expression, zone, last, now, jitter=jitter, key="web")
    assert again is not None and again > now
    assert cron.due(oracle.expression, zone, last, again - 0.01, jitter=jitter, key="web") is None
    assert cron.due(oracle.expression, zone, last, again + 0.01, jitter=jitter, key="web") is not None


def test_daylight_saving_in_berlin() -> None:
    spring = cron.times("30 2 * * *", BERLIN, at("2026-03-28T12:00"))
    assert next(spring) == at("2026-03-29T01:00"), "02:30 does not exist: right after the gap, at 03:00"
    assert next(spring) == at("2026-03-30T00:30")
    autumn = cron.times("30 2 * * *", BERLIN, at("2026-10-24T12:00"))
    assert [next(autumn), next(autumn)] == [at("2026-10-25T00:30"), at("2026-10-26T01:30")], "02:30 comes twice"


def test_a_clock_set_back_fires_nothing_and_set_forward_one() -> None:
    last = at("2026-05-01T03:00")
    assert cron.due("0 3 * * *", UTC, last, last - 5 * 86400) is None
    assert cron.due("0 3 * * *", UTC, last, last) is None
    assert cron.due("0 3 * * *", UTC, last, last + 3 * 86400) == (last + 3 * 86400, 2)


def test_a_very_long_time_is_quick_and_counted_up_to_a_limit() -> None:
    now = at("2026-05-01T03:00:30")
    assert cron.due("* * * * *", UTC, now - 40 * 365 * 86400, now) == (now - 30, cron.COUNTED)
    assert cron.due("0 0 29 2 *", UTC, at("1990-01-01T00:00"), at("2027-01-01T00:00")) == (at("2024-02-29T00:00"), 8)


def test_what_never_comes() -> None:
    assert cron.upcoming("0 0 31 2,4 1#1", UTC, 0.0, at("2026-01-01T00:00")) is not None  # either day or weekday
    assert cron.due("0 0 30 2 *", UTC, 0.0, 1.0) is None if _accepted("0 0 30 2 *") else True


def _accepted(expression: str) -> bool:
    try:
        next(cron.times(expression, UTC, 0.0), None)
    except BadInput:
        return False
    return True


@pytest.mark.parametrize("bad", ["", "x", "* * * *", "60 * * * *", "* * * * * * *", "*/0 * * * *", "1-", "٣ * * * *"])
def test_a_bad_expression_says_so(bad: str) -> None:
    with pytest.raises(BadInput):
        cron.due(bad, UTC, 0.0, 100.0)


@given(st.text("0123456789*/,-#LW? MONJAN", max_size=24), MOMENTS)
def test_no_expression_crashes(expression: str, now: float) -> None:
    try:
        cron.due(expression, BERLIN, now - 1000, now)
        cron.upcoming(expression, BERLIN, now - 1000, now)
    except BadInput:
        pass


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "a\0b", "Europe"])
def test_a_bad_zone_says_so(name: str) -> None:
    with pytest.raises(BadInput):
        cron.zone_of(name)


@given(st.text(), MOMENTS, st.floats(0, 1e6))
def test_delay_is_within_the_jitter(key: str, due: float, jitter: float) -> None:
    assert 0 <= cron.delay(key, due, jitter) <= jitter
    assert cron.delay(key, due, jitter) == cron.delay(key, due, jitter)
