"""Decides which due time of a cron expression to act on now. Pure.

Daylight saving time is treated as by Debian's cron: a fixed time that is skipped comes right after the gap, a repeated
one comes once, and an expression with a `*` for minute or hour follows the clock as shown. cronsim only counts on a
wall clock without changes: its own handling of them misses hours where the clock changes at midnight.
"""

from __future__ import annotations

import datetime
import hashlib
import zoneinfo
from collections import deque
from collections.abc import Iterable, Iterator

from cronsim import CronSim, CronSimError

from imageflow.errors import BadInput

COUNTED = 1000  # missed due times are counted up to this
_BEFORE = datetime.timedelta(hours=4)  # more than a clock is set back by: what it shows again comes once more
_SPANS = (3600.0, 86400.0, 8 * 86400.0, 64 * 86400.0, 400 * 86400.0, 9 * 366 * 86400.0)  # seconds back, shortest first


def zone_of(name: str) -> zoneinfo.ZoneInfo:
    """The time zone of this name; raises BadInput."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"there is no time zone {name!r}", hint="such as UTC or Europe/Berlin") from None


def times(expression: str, zone: datetime.tzinfo, after: float) -> Iterator[float]:
    """The due times after a moment, ascending, each once; seconds since 1970. Raises BadInput for a bad expression."""
    wall = datetime.datetime.fromtimestamp(after, zone).replace(tzinfo=None) - _BEFORE
    try:
        walls = CronSim(expression, wall)
    except (CronSimError, ValueError, TypeError, AssertionError):
        raise BadInput(f"{expression!r} is not a cron expression", hint='such as "0 3 * * *"') from None
    fields = expression.split()
    fixed = len(fields) == 5 and not fields[0].startswith("*") and not fields[1].startswith("*")
    return _ascending(walls, zone, after, fixed=fixed)


def _ascending(
    walls: Iterable[datetime.datetime], zone: datetime.tzinfo, after: float, *, fixed: bool
) -> Iterator[float]:
    last, repeated = after, deque[float]()
    for wall in walls:
        aware = wall.replace(tzinfo=zone)
        stamp, second = aware.timestamp(), aware.replace(fold=1).timestamp()
        if second < stamp:  # it is skipped
            if not fixed:
                continue
            stamp = _after_gap(aware)
        while repeated and repeated[0] <= stamp:
            if (moment := repeated.popleft()) > last:
                last = moment
                yield moment
        if second > stamp and not fixed:
            repeated.append(second)
        if stamp > last:
            last = stamp
            yield stamp
    yield from (moment for moment in repeated if moment > last)


def _after_gap(skipped: datetime.datetime) -> float:
    """The first minute that is shown again."""
    while skipped.replace(fold=1).timestamp() < skipped.timestamp():
        skipped += datetime.timedelta(minutes=1)
    return skipped.timestamp()


def delay(key: str, due: float, jitter: float) -> float:
    """Delay of this due time of this key in seconds: always the same, and 0…jitter."""
    if jitter <= 0:
        return 0.0
    number = int.from_bytes(hashlib.sha256(f"{key}@{due:.0f}".encode()).digest()[:8], "big")
    return jitter * number / 2**64


def due(
    expression: str, zone: datetime.tzinfo, last: float, now: float, *, jitter: float = 0.0, key: str = ""
) -> tuple[float, int] | None:
    """The latest due time after `last` that has come, and how many earlier ones were missed; None: none has come.

    All are seconds since 1970. With `jitter`, a due time has come only after its own `delay`.
    More than COUNTED missed ones are reported as COUNTED. Raises BadInput for a bad expression.
    """
    found = _latest(expression, zone, last, now, jitter, key)
    if found is None:
        return None
    missed = 0
    for moment in times(expression, zone, last):
        if moment >= found or missed >= COUNTED:
            break
        missed += 1
    return found, missed


def upcoming(
    expression: str, zone: datetime.tzinfo, last: float, now: float, *, jitter: float = 0.0, key: str = ""
) -> float | None:
    """The earliest moment after `now` at which `due` may return something else; None: never."""
    earliest = None
    for moment in times(expression, zone, max(last, now - max(jitter, 0.0))):
        ripe = moment + delay(key, moment, jitter)
        if ripe > now and (earliest is None or ripe < earliest):
            earliest = ripe
        if earliest is not None and moment >= max(now, earliest):
            break
    return earliest


def _latest(expression: str, zone: datetime.tzinfo, last: float, now: float, jitter: float, key: str) -> float | None:
    """Searches only forwards, from further and further back: times skipped by a gap come together after it."""
    for span in _SPANS:
        start = max(last, now - max(jitter, 0.0) - span)
        found = None
        for moment in times(expression, zone, start):
            if moment > now:
                break
            if moment + delay(key, moment, jitter) <= now:
                found = moment
        if found is not None or start <= last:
            return found
    return None
