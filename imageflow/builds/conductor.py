"""The process that claims builds and runs them: leases, wishes, drain, takeover from dead conductors.

Four kinds of threads: the caller's looks for work, one heartbeat only renews leases, one
watches for wishes, and one per build runs its flow. A build whose claim is lost is dropped at once: its
child processes are ended and nothing more is written, because every write proves the claim in its own transaction.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import time
from collections.abc import Callable, Collection

from sqlalchemy import Connection
from taskflow import exceptions as taskflow_errors
from taskflow.jobs import base

from imageflow import model
from imageflow.background.complaints import Complaints
from imageflow.background.flag import Flag
from imageflow.builds import transitions
from imageflow.builds.janitor import Janitor
from imageflow.builds.parts import Parts
from imageflow.builds.room import RoomWatch
from imageflow.builds.run import BuildRun
from imageflow.errors import Cancelled, ClaimLost, ImageflowError
from imageflow.persistence import builds, conductors, leases, tables
from imageflow.persistence.claim import Claim
from imageflow.persistence.database import Database
from imageflow.persistence.dead_leases import FAR, DeadLeases
from imageflow.persistence.jobboard import AGAIN, REVERT, SqlJob
from imageflow.persistence.reserve import Reserve
from imageflow.stores import targets

LOG = logging.getLogger(__name__)
REVERTS = 16  # builds that are reverted at once besides those that run: each ends by itself, whatever hangs
_OTHERS = 10.0  # seconds between two looks at the leases of other things than builds
_SOON = 0.02  # seconds after a lease has expired until its build is looked for


class Conductor:
    """Runs queued builds, up to `config.conductor.max_builds` at once; a build that was asked to end waits for no place."""

    def __init__(self, parts: Parts, *, only: Collection[str] | None = None) -> None:
        """`only`: the ids of the builds to run; default: all."""
        self._parts = parts
        self._config = parts.config
        self._database = parts.database
        self._board = parts.board
        # The heartbeat's own connection: it never waits for a free one, and never for the disk.
        self._pulse = Database(parts.config.database, lasting=False)
        targets.parse(parts.config)  # a wrong target must not be discovered after a build has succeeded
        self._only = None if only is None else frozenset(only)
        self._janitor = Janitor(parts)
        self.name = leases.new_owner(self._config.host)
        self._started = time.time()
        self._reserve = Reserve(self._config.state_dir / "reserve")
        self._complaints = Complaints()
        self._held: dict[str, BuildRun] = {}
        self._room = RoomWatch(parts)
        far = max(FAR, 4 * self._config.conductor.lease)
        self._dead = DeadLeases(parts.database, self._config.host, [tables.jobs], far)
        self._dead_others = DeadLeases(
            parts.database, self._config.host, [tables.rebuilds, tables.deliveries, tables.publications], far
        )
        self._others_at = 0.0
        self._lock = threading.Lock()
        self._wake = Flag()
        self._draining = Flag()
        self._drain_end = float("inf")
        self._finished = threading.Event()

    # -- the caller's thread ---------------------------------------------------------------------

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Claim and run builds until `stop()`, or until `until()` is true and no build runs here."""
        self._database.relief = self._reserve.give_up
        self._renew([])
        self._reserve.keep()
        heartbeat = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)
        heartbeat.start()
        wishes = threading.Thread(target=self._look_for_wishes, name="wishes", daemon=True)
        wishes.start()
        tidy = threading.Thread(target=self._tidy, name="janitor", daemon=True)
        tidy.start()
        with self._complaints.instead_of_failing("put reverts first"):
            self._database.transact(lambda conn: transitions.hurry(conn, self._parts))
        try:
            threads = self._config.conductor.max_builds + REVERTS
            with concurrent.futures.ThreadPoolExecutor(threads, "build") as pool:
                while not self._draining.is_set() and not (until is not None and until() and not self._held):
                    self._claim_some(pool)
                    self._wake.wait(self._until_next_look())
                    self._wake.clear()
                self._drain()
        finally:
            self._finished.set()
            heartbeat.join()
            self._pulse.close()
            wishes.join()
            tidy.join(5.0)  # another janitor can finish what it is doing
            with self._complaints.instead_of_failing("say goodbye"):
                self._database.transact(lambda conn: conductors.remove(conn, self.name))

    def stop(self, *, now: bool = False) -> None:
        """Claim no more builds; let running steps end within the drain timeout, then hand the builds back.

        `now`: hand back at once. Safe in a signal handler and from any thread.
        """
        self._drain_end = time.monotonic() + (0.0 if now else self._config.conductor.drain_timeout)
        self._draining.set()
        self._wake.set()

    def wake(self) -> None:
        """There may be work. Safe from any thread."""
        self._wake.set()

    def _until_next_look(self) -> float:
        """Seconds: the poll interval, or less when another conductor's lease expires before that."""
        poll = self._config.conductor.poll
        with self._complaints.instead_of_failing("look at the leases of others"):
            left = self._board.until_free(self.name)
            if left is not None:
                return min(poll, left + _SOON)
        return poll

    def _claim_some(self, pool: concurrent.futures.ThreadPoolExecutor) -> None:
        with self._complaints.instead_of_failing("end the leases of the dead"):
            self._end_dead_leases()
        with self._complaints.instead_of_failing("look for work"):
            for job in self._board.unclaimed(self._only, REVERT):
                if self._ending() < REVERTS:
                    self._begin(pool, job, ending=True)
            for job in self._board.unclaimed(self._only, AGAIN):
                if self._room.is_there(job) and self._free() > 0:  # asked in any case: that keeps its place
                    self._begin(pool, job)
            for job in self._board.unclaimed(self._only, base.JobPriority.NORMAL) if self._free() > 0 else ():
                if self._free() > 0:
                    self._begin(pool, job)

    def _end_dead_leases(self) -> None:
        self._dead.end()
        if time.monotonic() >= self._others_at:
            self._others_at = time.monotonic() + _OTHERS
            self._dead_others.end()

    def _free(self) -> int:
        """How many builds may begin now; a build that ends counts against no limit."""
        return self._config.conductor.max_builds - sum(not run.ending for run in self._running())

    def _ending(self) -> int:
        return sum(run.ending for run in self._running())

    def _begin(self, pool: concurrent.futures.ThreadPoolExecutor, job: SqlJob, *, ending: bool = False) -> None:
        build_id = str(job.name)
        if build_id in self._held or self._draining.is_set():
            return
        try:
            self._board.claim(job, self.name, self._config.conductor.lease)
        except (taskflow_errors.UnclaimableJob, taskflow_errors.NotFound):
            return  # another conductor was faster
        claim = Claim(self._board, job, self._config.conductor.lease)
        run = BuildRun(self._parts, claim, self.name, build_id, ending=ending)
        with self._lock:
            self._held[build_id] = run
        pool.submit(self._carry_out, run)

    def _carry_out(self, run: BuildRun) -> None:
        try:
            run.run()
        except ClaimLost:
            LOG.warning("build %s: the claim is lost, another conductor has taken it over", run.build_id)
        except ImageflowError as error:
            LOG.error("build %s: %s; it is handed back", run.build_id, error)
            self._draining.wait(min(5.0, self._config.conductor.lease / 4))  # no hot loop
            with self._complaints.instead_of_failing("hand a build back"):
                run.hand_back()
        except Exception:
            LOG.exception("build %s: a bug in imageflow", run.build_id)
            with self._complaints.instead_of_failing("pause a build"):
                run.pause_for_bug()
        finally:
            with self._lock:
                self._held.pop(run.build_id, None)
            self._wake.set()

    def _drain(self) -> None:
        """Wait for the running steps, then take the builds from their threads."""
        for run in self._running():
            run.suspend()
        while self._running():
            if time.monotonic() > self._drain_end:
                for run in self._running():
                    run.release()
            self._wake.wait(0.1)
            self._wake.clear()

    def _running(self) -> list[BuildRun]:
        with self._lock:
            return list(self._held.values())

    # -- the heartbeat ---------------------------------------------------------------------------

    def _heartbeat(self) -> None:
        lease = self._config.conductor.lease
        renewed, pause = time.monotonic(), lease / 5
        while not self._finished.wait(pause):
            running = [run for run in self._running() if not run.claim.dropped]
            try:
                renewed, pause = self._renew(running), lease / 5
            except Exception as error:  # noqa: BLE001 - whatever it is, the leases have to be watched
                pause = lease / 10
                self._complaints.add("renew the leases", error)
                if time.monotonic() - renewed > lease * 0.9:  # from now on other conductors may take our builds over
                    for run in running:
                        run.lose()

    def _renew(self, running: list[BuildRun]) -> float:
        """Renew the leases of these builds and our own heartbeat; -> the time.monotonic() from which they count."""
        lease = self._config.conductor.lease
        kept = [run for run in running if not run.claim.forsaken]

        def work(conn: Connection) -> tuple[float, list[SqlJob]]:
            asked = time.monotonic()
            lost = self._board.extend_in(conn, [run.claim.job for run in kept], lease)
            if self._only is None:  # otherwise it serves only its own builds, and other users would wait for it in vain
                started, pid = self._started, os.getpid()
                me = model.Conductor(self.name, self._config.host, pid, started, until=0.0, running=len(running))
                conductors.beat(conn, me, lease)
            return asked, lost

        asked, lost = self._pulse.transact(work)
        for run in running:
            if run in kept and run.claim.job not in lost:
                run.claim.renewed(asked)
            elif not run.over:
                run.lose()
        return asked

    # -- wishes ----------------------------------------------------------------------------------

    def _look_for_wishes(self) -> None:
        while not self._finished.wait(self._config.conductor.poll):
            with self._complaints.instead_of_failing("look for wishes"):
                self._see_wishes(self._running())

    def _see_wishes(self, running: list[BuildRun]) -> None:
        if not running:
            return
        with self._database.read() as conn:
            wishes = builds.wishes(conn, [run.build_id for run in running])
        for run in running:
            wish = wishes.get(run.build_id)
            if wish in (model.Wish.ABORT, model.Wish.CANCEL):
                run.interrupt(Cancelled(f"the build was asked to end ({wish})"))

    # -- the janitor -----------------------------------------------------------------------------

    def _tidy(self) -> None:
        while True:
            self._reserve.keep()  # recreate it if it was given up
            with self._complaints.instead_of_failing("tidy up"):
                self._janitor.round()
            if self._finished.wait(self._config.janitor_interval):
                return
