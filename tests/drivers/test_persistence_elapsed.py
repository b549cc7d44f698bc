"""Ages and leases when clocks are set: nothing is removed too early, and nobody who is dead holds anything for long."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow.host import alive
from imageflow.persistence import leases, observations
from imageflow.persistence.database import Database
from imageflow.persistence.dead_leases import DeadLeases
from imageflow.persistence.elapsed import PROOF, Ages, Jump, seen
from imageflow.persistence.tables import jobs

DAY = 86400.0
MONTH = 30 * DAY


class Clocks:
    """Of one host: one that is set, and one that is not."""

    def __init__(self) -> None:
        self.wall, self.up = time.time(), 5000.0

    def ages(self, database: Database, host: str = "here") -> Ages:
        return Ages(database, host, wall=lambda: self.wall, steady=lambda: self.up)

    def go(self, seconds: float) -> None:
        self.wall, self.up = self.wall + seconds, self.up + seconds


def test_time_that_passes_is_no_jump(database: Database) -> None:
    clocks = Clocks()
    ages = clocks.ages(database)
    for _ in range(5):
        assert ages.stretched(MONTH) == MONTH
        clocks.go(10 * DAY)
        clocks.wall += 5.0  # as it is adjusted
    assert ages.before(MONTH) == clocks.wall - MONTH


def test_a_clock_that_goes_ahead_makes_nothing_old(database: Database) -> None:
    """Before and after the jump is taken back, and in a process that begins meanwhile."""
    clocks = Clocks()
    before = clocks.wall
    assert clocks.ages(database).stretched(MONTH) == MONTH
    clocks.go(100)
    clocks.wall += 40 * DAY
    ages = clocks.ages(database)
    assert ages.before(MONTH) < before - MONTH + 101
    clocks.go(8)
    clocks.wall -= 40 * DAY
    assert ages.before(MONTH) == pytest.approx(clocks.wall - MONTH)


def test_a_clock_that_was_wrong_before_makes_nothing_old(database: Database) -> None:
    """A host that begins in 1970: what it wrote then is as old as it is, and gets old."""
    clocks = Clocks()
    right, clocks.wall = clocks.wall, 1000.0
    ages = clocks.ages(database)
    ages.stretched(MONTH)
    written = clocks.wall
    clocks.go(60)
    clocks.wall = right
    for _ in range(29):
        assert ages.before(MONTH) < written
        clocks.go(DAY)
    clocks.go(2 * DAY)
    assert ages.before(MONTH) > written


def test_a_clock_that_goes_back_makes_nothing_old(database: Database) -> None:
    clocks = Clocks()
    ages = clocks.ages(database)
    assert ages.stretched(MONTH) == MONTH
    clocks.wall -= 7200
    assert ages.before(MONTH) == clocks.wall - MONTH


def test_the_clock_of_another_host_counts_too(database: Database) -> None:
    """It may have written what we are about to remove."""
    one, other = Clocks(), Clocks()
    other.wall -= 40 * DAY
    written = other.wall
    other.ages(database, "there").stretched(MONTH)
    other.wall += 40 * DAY
    other.ages(database, "there").stretched(MONTH)
    assert one.ages(database, "here").before(MONTH) < written


def test_after_a_reboot_the_clock_is_believed_later() -> None:
    first = seen(None, "boot 1", 100.0, 1e9)
    rebooted = seen(first, "boot 2", 10.0, 1e9 + 40 * DAY)
    assert rebooted.stretched(MONTH) == MONTH + 40 * DAY
    assert seen(rebooted, "boot 2", 10.0 + PROOF - 1, 1e9 + 40 * DAY + PROOF - 1).stretched(MONTH) > MONTH
    assert seen(rebooted, "boot 2", 11.0 + PROOF, 1e9 + 40 * DAY + PROOF + 1).stretched(MONTH) == MONTH
    assert seen(first, "boot 2", 10.0, 1e9 + 3600).stretched(MONTH) == MONTH  # off for an hour


def test_a_jump_that_is_taken_back_in_part() -> None:
    first = seen(None, "b", 0.0, 1e9)
    ahead = seen(first, "b", 10.0, 1e9 + 10 + 5 * DAY)
    back = seen(ahead, "b", 20.0, 1e9 + 20 + 2 * DAY)
    assert [round(jump.by / DAY) for jump in back.jumps] == [2]
    assert seen(back, "b", 30.0, 1e9 + 30).jumps == ()
    assert isinstance(ahead.jumps[0], Jump)


def test_the_row_is_small_and_readable(database: Database) -> None:
    clocks = Clocks()
    for _ in range(100):
        clocks.wall += DAY
        clocks.ages(database).stretched(MONTH)
    with database.read() as conn:
        row = observations.seen(conn, "imageflow: clocks of here")
    assert row is not None and len(row[0]) < 8000
    assert "host" in json.loads(row[0])


# -- who is dead -------------------------------------------------------------------------------------


def _owner(host: str, pipe: object) -> None:
    pipe.send(leases.new_owner(host))  # type: ignore[attr-defined]
    signal.pause()


@pytest.fixture
def dead(tmp_path: Path) -> str:
    """The name of an owner on this host whose process was killed."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=_owner, args=("here", theirs))
    process.start()
    name: str = ours.recv()
    assert not leases.is_dead(name, "here")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert leases.is_dead(name, "here")  # a zombie, too
    process.join()
    return name


def test_only_what_is_known_to_be_dead_is_dead(dead: str) -> None:
    assert leases.is_dead(dead, "here") and not leases.is_dead(dead, "there") and not leases.is_dead(dead, "")
    ours = leases.new_owner("here")
    assert not leases.is_dead(ours, "here")
    host, pid, word, mark = ours.split(":")
    boot, namespace, start = mark.split(".")
    assert leases.is_dead(f"{host}:{pid}:{word}:{boot}.{namespace}.{int(start) + 1}", "here")  # its pid is used again
    assert leases.is_dead(f"{host}:{pid}:{word}:00000000.{namespace}.{start}", "here")  # before a reboot
    assert not leases.is_dead(f"{host}:4194304:{word}:{boot}.1.{start}", "here")  # of another container
    for name in ("here:12:abc", "here", "", "here:x:y:z", f"here:{pid}:{word}"):
        assert not leases.is_dead(name, "here")
    assert not alive.is_gone(os.getpid(), alive.mark())


def held_by(database: Database, owner: str, seconds: float) -> None:
    with database.begin() as conn:
        conn.execute(sa.delete(jobs))
        row = {"uuid": "u", "board": "b", "name": "n", "priority": 2, "details": {}, "created": 0.0, "owner": owner}
        conn.execute(sa.insert(jobs).values(**row, until=database.now() + seconds))


def is_free(database: Database) -> bool:
    with database.read() as conn:
        free = sa.select(sa.func.count()).select_from(jobs).where(leases.free(jobs, database.dialect))
        return conn.execute(free).scalar_one() == 1


def test_a_dead_process_holds_nothing(database: Database, dead: str) -> None:
    """Whatever time its lease says."""
    held_by(database, dead, 7200)
    assert not is_free(database)
    assert DeadLeases(database, "there", [jobs]).end() == 0
    assert DeadLeases(database, "here", [jobs]).end() == 1
    time.sleep(0.01)
    assert is_free(database)


def test_a_lease_that_is_far_away_and_not_renewed_ends(database: Database) -> None:
    """Of a host that can't be asked; one that is renewed, or says an ordinary time, holds."""
    leases_of = DeadLeases(database, "here", [jobs], still=0.3)
    for seconds, renewed, ends in ((7200.0, False, True), (7200.0, True, False), (60.0, False, False)):
        held_by(database, "there:1:abcdefgh:00000000.1.1", seconds)
        assert leases_of.end() == 0
        time.sleep(0.4)
        if renewed:
            held_by(database, "there:1:abcdefgh:00000000.1.1", 12.0)
        assert leases_of.end() == int(ends), (seconds, renewed)
