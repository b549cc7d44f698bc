"""Which due time of a cron expression is to be acted on now. Pure.

cronsim does what Debian's cron does about daylight saving time: a fixed time that is skipped comes right after
the gap, one that is repeated comes once, and what has a `*` for minute or hour follows the clock's real time.
"""

from __future__ import annotations

import datetime
import hashlib
import zoneinfo
from collections.abc import Iterator

from cronsim import CronSim, CronSimError

from imageflow.errors import BadInput

COUNTED = 1000  # missed due times are counted up to this
_SPANS = (3600.0, 86400.0, 8 * 86400.0, 64 * 86400.0, 400 * 86400.0, 9 * 366 * 86400.0)  # seconds back, shortest first


def zone_of(name: str) -> zoneinfo.ZoneInfo:
    """The time zone of this name; raises BadInput."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise BadInput(f"there is no time zone {name!r}", hint="such as UTC or Europe/Berlin") from None


def times(expression: str, zone: datetime.tzinfo, after: float) -> Iterator[float]:
    """The due times after a moment, ascending, each once; seconds since 1970. Raises BadInput for a bad expression."""
    start = datetime.datetime.fromtimestamp(after, zone)
    try:
        simulation = CronSim(expression, start)
    except (CronSimError, ValueError, TypeError, AssertionError):
        raise BadInput(f"{expression!r} is no cron expression", hint='such as "0 3 * * *"') from None
    return _ascending(simulation, after)


def _ascending(simulation: CronSim, after: float) -> Iterator[float]:
    last = after
    for moment in simulation:
        stamp = moment.timestamp()
        if stamp > last:  # in a repeated hour it starts over; what a gap skips comes together after it
            last = stamp
            yield stamp


def delay(key: str, due: float, jitter: float) -> float:
    """Seconds that this due time of this key waits: always the same, and 0…jitter."""
    if jitter <= 0:
        return 0.0
    number = int.from_bytes(hashlib.sha256(f"{key}@{due:.0f}".encode()).digest()[:8], "big")
    return jitter * number / 2**64


def due(
    expression: str, zone: datetime.tzinfo, last: float, now: float, *, jitter: float = 0.0, key: str = ""
) -> tuple[float, int] | None:
    """The latest due time after `last` that has come, and how many before it did not get their turn; None: none has.

    All are seconds since 1970. With `jitter` a due time has come when its own `delay` is over, too.
    More than COUNTED missed ones are COUNTED. Raises BadInput for a bad expression.
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
    """The earliest moment after `now` at which `due` can have another answer; None: never."""
    earliest = None
    for moment in times(expression, zone, max(last, now - max(jitter, 0.0))):
        ripe = moment + delay(key, moment, jitter)
        if ripe > now and (earliest is None or ripe < earliest):
            earliest = ripe
        if earliest is not None and moment >= max(now, earliest):
            break
    return earliest


def _latest(expression: str, zone: datetime.tzinfo, last: float, now: float, jitter: float, key: str) -> float | None:
    """Only ever forwards, from further and further back: cronsim's reverse disagrees with itself around clock changes."""
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
