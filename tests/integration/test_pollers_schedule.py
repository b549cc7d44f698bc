"""Schedules with a real inbox and a clock that the test moves."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from imageflow.listeners.schedule import Schedule
from tests.small.polled import Site, images, until

START = datetime.datetime(2026, 5, 1, 12, 0, tzinfo=datetime.UTC).timestamp()
DAY = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def fire(site: Site, clock: Clock) -> None:
    """A process that has just been started looks once."""
    Schedule(site.around(), clock).fire(site.watched.triggers("schedule"))


def test_the_past_does_not_fire_the_future_does_once(site: Site) -> None:
    site.register(images(web="{schedule: '0 3 * * *', timezone: Europe/Berlin}", db="{schedule: '0 4 * * 0'}"))
    clock = Clock()
    fire(site, clock)
    assert site.events() == []
    clock.now = START + DAY
    fire(site, clock)
    fire(site, clock)
    [event] = site.events()
    assert event.source == "imageflow:schedule"
    assert event.type == "imageflow.schedule"
    assert event.subject == "web"
    assert event.listener == "schedule"
    assert event.id == "web/0 3 * * */Europe/Berlin/2026-05-02T01:00:00+00:00"
    assert event.data == {
        "image": "web",
        "schedule": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "due": "2026-05-02T03:00:00+02:00",
        "missed": 0,
    }
    assert site.asked_for(event) == ["web"]


def test_down_over_three_due_times_is_one_event(site: Site) -> None:
    site.register(images(web="{schedule: '0 3 * * *'}"))
    clock = Clock()
    fire(site, clock)
    clock.now += 3 * DAY
    fire(site, clock)
    [event] = site.events()
    assert (event.data["due"], event.data["missed"]) == ("2026-05-04T03:00:00+00:00", 2)


def test_clock_moved_back_and_forth_while_running(site: Site) -> None:
    site.register(images(web="{schedule: '0 3 * * *'}"))
    clock = Clock()
    running = Schedule(site.around(), clock)
    triggers = site.watched.triggers("schedule")
    for days, count in ((0, 0), (3, 1), (1, 1), (0, 1), (3, 1), (3.9, 2), (3.5, 2), (4.9, 3)):
        clock.now = START + days * DAY
        running.fire(triggers)
        assert len(site.events()) == count, days


def test_a_clock_that_was_years_ahead_does_not_silence_a_schedule(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.register(images(web="{schedule: '0 3 * * *'}"))
    clock = Clock()
    fire(site, clock)
    clock.now = START + 3650 * DAY
    fire(site, clock)
    assert len(site.events()) == 1
    clock.now = START + 0.5 * DAY
    fire(site, clock)
    assert "ahead of the clock" in caplog.text
    clock.now = START + 1.5 * DAY
    fire(site, clock)
    assert [event.data["due"][:10] for event in site.events()] == ["2036-04-28", "2026-05-02"]


def test_killed_between_receive_and_see_is_one_event(site: Site) -> None:
    site.register(images(web="{schedule: '0 3 * * *'}"))
    clock = Clock()
    fire(site, clock)
    name = "schedule:web/0 3 * * */UTC"
    before = site.watched.seen(name)
    assert before is not None
    clock.now += DAY
    fire(site, clock)
    site.watched.see(name, before[0])  # as if it had died before it remembered
    fire(site, clock)
    [event] = site.events()
    assert event.deliveries == 2


def test_two_processes_fire_once(site: Site) -> None:
    site.register(images(web="{schedule: '*/5 * * * *'}", db="{schedule: '*/5 * * * *', jitter: 200}"))
    clocks = [Clock(), Clock()]
    processes = [Schedule(site.around(), clock) for clock in clocks]
    triggers = site.watched.triggers("schedule")
    for step in range(60):
        for number, (process, clock) in enumerate(zip(processes, clocks, strict=True)):
            clock.now = START + 60 * step + 7 * number  # and their clocks are not the same
            process.fire(triggers)
    dues = [(event.subject, event.data["due"]) for event in site.events()]
    assert len(dues) == len(set(dues))
    assert sum(image == "web" for image, _ in dues) == 11
    assert sum(image == "db" for image, _ in dues) >= 10
    assert all(event.data["missed"] == 0 for event in site.events())


def test_jitter_is_the_same_for_everybody_and_spreads_images(site: Site) -> None:
    entry = "{schedule: '0 3 * * *', jitter: 3600}"
    site.register(images(a=entry, b=entry, c=entry, d=entry))
    clock = Clock()
    running = Schedule(site.around(), clock)
    triggers = site.watched.triggers("schedule")
    fired: dict[str, float] = {}
    clock.now = START + 15 * 3600 - 120
    running.fire(triggers)
    while clock.now < START + 16 * 3600 + 120:
        clock.now += 60
        running.fire(triggers)
        for event in site.events():
            fired.setdefault(str(event.subject), clock.now - START - 15 * 3600)
    assert set(fired) == {"a", "b", "c", "d"}
    assert all(0 <= late <= 3660 for late in fired.values())
    assert len(set(fired.values())) > 1


def test_it_runs_and_notices_new_recipes(site: Site) -> None:
    """With the real clock; so that a due time need not be waited for, what fired last is set back."""
    with site.running(Schedule):
        site.register(images(web="{schedule: '* * * * *'}"))
        name = "schedule:web/* * * * */UTC"
        until(lambda: site.watched.seen(name))
        assert site.events() == []
    site.watched.see(name, "2026-01-01T00:00:00+00:00")
    with site.running(Schedule):
        until(site.events)
    [event] = site.events()
    assert event.data["missed"] == 1000


def test_a_broken_schedule_of_an_older_version_is_told_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.register(images(web="{schedule: '0 3 * * *'}", db="{schedule: '0 3 * * *'}"))
    triggers = site.watched.triggers("schedule")
    for trigger in triggers:
        if trigger.image == "web":
            trigger.given["timezone"] = "Mars/Olympus"
    clock = Clock()
    running = Schedule(site.around(), clock)
    for _ in range(3):
        running.fire(triggers)
        clock.now += DAY
    assert caplog.text.count("Mars/Olympus") == 1
    assert {event.subject for event in site.events()} == {"db"}
