"""How long ago something stored really was: clocks are set, forwards and backwards, and what is removed for its age must be that old.

For each host there is a row with the difference between its clock and the time since its boot, which nobody sets. When that
difference jumps, times from before the jump count as younger by as much; a jump that is taken back is forgotten.
On a database server its clock is watched in the same way.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from imageflow.host import alive
from imageflow.persistence import observations
from imageflow.persistence.database import Database, clock
from imageflow.persistence.tables import observations as table

LOG = logging.getLogger(__name__)
TOLERANCE = 30.0  # seconds; less is no jump: clocks are adjusted all the time
LONG = 86400.0  # seconds; a host may have been off for so long, or its clock may be wrong since it was booted …
PROOF = 3600.0  # … and is believed after it said so for this long
PREFIX = "imageflow: clocks of "
_FRESH = 60.0  # seconds after which an unchanged row is written again
_MOST = 20  # jumps remembered


@dataclass(frozen=True, slots=True)
class Jump:
    """A clock went ahead."""

    at: float  # the time that it showed afterwards
    by: float  # seconds
    until: float | None = None  # time since boot at which it is believed; None: it is a jump


@dataclass(frozen=True, slots=True)
class Watched:
    """What is known of one clock."""

    boot: str
    offset: float  # its time less the time since boot
    time: float  # when it was looked at last
    jumps: tuple[Jump, ...] = field(default=())

    def stretched(self, seconds: float) -> float:
        """The seconds before `time` that are at least `seconds` really elapsed."""
        for jump in reversed(self.jumps):
            if jump.at > self.time - seconds:
                seconds += jump.by
        return seconds


def uptime() -> float:
    """Seconds since the host was booted, also those that it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def seen(before: Watched | None, boot: str, up: float, now: float) -> Watched:
    """A clock that shows `now`, `up` seconds after the boot: what is known of it from now on."""
    if before is None:
        return Watched(boot, now - up, now)
    jumps = [jump for jump in before.jumps if not (jump.until is not None and before.boot == boot and up > jump.until)]
    until: float | None = None
    if before.boot == boot:
        by = now - up - before.offset
    else:
        by, until = now - before.time, up + PROOF  # how long it was off, nobody knows
        jumps = [jump if jump.until is None else replace(jump, until=until) for jump in jumps]
    if by > (TOLERANCE if until is None else LONG):
        jumps.append(Jump(now, by, until))
    elif by < -TOLERANCE:
        jumps = _taken_back(jumps, -by)
    return Watched(boot, now - up, now, tuple(jumps[-_MOST:]))


def _taken_back(jumps: list[Jump], by: float) -> list[Jump]:
    left = list(jumps)
    while left and by > 0:
        last = left.pop()
        if last.by > by + TOLERANCE:
            left.append(Jump(last.at - by, last.by - by, last.until))
        by -= last.by
    return left


class Ages:
    """Ages by all the clocks of one database; threads and processes may look at the same time."""

    def __init__(
        self,
        database: Database,
        host: str,
        *,
        wall: Callable[[], float] | None = None,
        steady: Callable[[], float] = uptime,
    ) -> None:
        self._database = database
        self._host = host
        self._wall = wall or time.time
        self._steady = steady

    def before(self, seconds: float) -> float:
        """The moment by this host's clock before which everything is at least `seconds` old."""
        return self._wall() - self.stretched(seconds)

    def stretched(self, seconds: float) -> float:
        """The seconds by the clocks that are at least `seconds` really elapsed: more than these, if a clock jumped ahead."""
        ours = self._database.transact(self._look)
        with self._database.read() as conn:
            query = sa.select(table.c.value).where(table.c.name.startswith(PREFIX, autoescape=True))
            others = [one for value in conn.execute(query).scalars() for one in _read(value).values()]
        return max(one.stretched(seconds) for one in (*ours.values(), *others))

    def _look(self, conn: sa.Connection) -> dict[str, Watched]:
        name = f"{PREFIX}{self._host}"
        row = observations.seen(conn, name)
        before = {} if row is None else _read(row[0])
        boot, up, now = alive.boot_id(), self._steady(), self._wall()
        clocks = {"host": now}
        if conn.dialect.name != "sqlite":
            clocks["database"] = conn.execute(sa.select(clock(conn.dialect.name))).scalar_one()
        after = {which: seen(before.get(which), boot, up, at) for which, at in clocks.items()}
        for which, one in after.items():
            self._say(which, before.get(which), one)
        if self._is_news(before, after):
            value = json.dumps({which: asdict(one) for which, one in after.items()})
            observations.see(conn, name, value, now)
        return after

    def _is_news(self, before: dict[str, Watched], after: dict[str, Watched]) -> bool:
        if before.keys() != after.keys():
            return True
        pairs = [(before[which], one) for which, one in after.items()]
        return any(
            old.boot != new.boot
            or old.jumps != new.jumps
            or abs(old.offset - new.offset) > 1
            or old.time + _FRESH < new.time
            for old, new in pairs
        )

    def _say(self, which: str, before: Watched | None, now: Watched) -> None:
        if before is None or before.jumps == now.jumps:
            return
        whose = f"the clock of {self._host}" if which == "host" else "the clock of the database's server"
        if len(now.jumps) > len(before.jumps):
            LOG.warning(
                "%s went %.0f s ahead: what is removed for its age is kept for that much longer",
                whose,
                now.jumps[-1].by,
            )
        else:
            LOG.info("%s: a jump is taken back, or believed by now", whose)


def _read(value: str) -> dict[str, Watched]:
    found: dict[str, Any] = json.loads(value)
    return {
        which: Watched(one["boot"], one["offset"], one["time"], tuple(Jump(**jump) for jump in one["jumps"]))
        for which, one in found.items()
    }
