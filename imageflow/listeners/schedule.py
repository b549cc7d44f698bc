"""Schedules of recipes: an event for each due time; after an outage, only for the last one."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable

from imageflow.background.flag import Flag
from imageflow.errors import BadInput
from imageflow.events.own import SCHEDULE
from imageflow.listeners import Surroundings, cron
from imageflow.model import Event, Trigger

LOG = logging.getLogger(__name__)
SOURCE = "imageflow:schedule"
_LOOK = 1.0  # seconds between two looks at the clock
_READ = 3.0  # seconds between two looks at which schedules there are
_BATCH = 500  # events received at once
_AHEAD = 86400.0  # seconds that the last firing may be ahead of the clock before the clock is trusted


Key = tuple[str, str, str, float]  # image, expression, time zone, jitter: what identifies a schedule

Found = tuple[Event | None, str, float]  # an event; the name of the last firing, and when it was due


class Schedule:
    """The listener. The last due time that fired is kept in an observation, and in the event's id."""

    def __init__(self, surroundings: Surroundings, clock: Callable[[], float] = time.time, look: float = _LOOK) -> None:
        """`clock`: seconds since 1970; `look`: seconds between two looks at it."""
        self._inbox = surroundings.inbox
        self._watched = surroundings.watched
        self._ready = surroundings.ready
        self._clock = clock
        self._look = look
        self._next: dict[Key, float] = {}  # schedule -> nothing is due before that time
        self._now = 0.0
        self._told: set[Key] = set()

    def run(self, stop: Flag) -> None:
        """See Listener."""
        read, triggers = float("-inf"), self._watched.triggers("schedule")
        self._ready("schedules")
        while not stop.is_set():
            if time.monotonic() - read >= _READ:
                read, triggers = time.monotonic(), self._watched.triggers("schedule")
            self.fire(triggers)
            stop.wait(self._look)

    def fire(self, triggers: list[Trigger]) -> None:
        """Receive events for everything that is due now."""
        now = self._clock()
        if now < self._now:
            self._next.clear()  # the clock was set back: the known due times are from the other clock
        self._now = now
        current = {_key(trigger) for trigger in triggers}
        for key in self._next.keys() - current:
            del self._next[key]
        found: list[Found] = []
        for key in sorted(current):
            if self._next.get(key, now) <= now:
                try:
                    found += self._one(key, now)
                except BadInput as error:
                    self._next[key] = float("inf")
                    if key not in self._told:
                        self._told.add(key)
                        LOG.warning("the schedule of image %s can't be used: %s", key[0], error.message)
            if len(found) >= _BATCH:
                self._send(found)
                found = []
        self._send(found)

    def _send(self, found: list[Found]) -> None:
        events = [event for event, _, _ in found if event is not None]
        self._inbox.receive(events, listener="schedule")
        if found:
            self._watched.see_all({name: _iso(last) for _, name, last in found})

    def _one(self, key: Key, now: float) -> list[Found]:
        """The event of one schedule if it is due (None: it is seen for the first time), and what to remember then."""
        image, expression, timezone, jitter = key
        zone = cron.zone_of(timezone)
        name = f"schedule:{image}/{expression}/{timezone}"
        last = self._last(name)
        if last is None or last > now + _AHEAD:
            if last is not None:
                LOG.warning(
                    "schedule %r of image %s fired last at %s, which is far ahead of the clock: it starts from now",
                    expression,
                    image,
                    _iso(last),
                )
            self._later(key, zone, now, now)
            return [(None, name, now)]
        due = cron.due(expression, zone, last, now, jitter=jitter, key=image)
        found: list[Found] = []
        if due is not None:
            last, missed = due
            found = [(_event(image, expression, timezone, last, missed, zone), name, last)]
            if missed:
                LOG.info(
                    "schedule %r of image %s: %d due times were missed; this one makes up for them",
                    expression,
                    image,
                    missed,
                )
        self._later(key, zone, last, now)
        return found

    def _later(self, key: Key, zone: datetime.tzinfo, last: float, now: float) -> None:
        """Note when to look at a schedule again."""
        image, expression, _, jitter = key
        again = cron.upcoming(expression, zone, last, now, jitter=jitter, key=image)
        self._next[key] = float("inf") if again is None else again

    def _last(self, name: str) -> float | None:
        seen = self._watched.seen(name)
        if seen is None:
            return None
        try:
            return datetime.datetime.fromisoformat(seen[0]).timestamp()
        except ValueError:
            return seen[1]


def _key(trigger: Trigger) -> Key:
    given = trigger.given
    return trigger.image, given["schedule"], given.get("timezone") or "UTC", float(given.get("jitter") or 0)


def _event(image: str, expression: str, timezone: str, due: float, missed: int, zone: datetime.tzinfo) -> Event:
    return Event(
        source=SOURCE,
        id=f"{image}/{expression}/{timezone}/{_iso(due)}",
        type=SCHEDULE,
        subject=image,
        time=due,
        data={
            "image": image,
            "schedule": expression,
            "timezone": timezone,
            "due": datetime.datetime.fromtimestamp(due, zone).isoformat(),
            "missed": missed,
        },
    )


def _iso(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat()
