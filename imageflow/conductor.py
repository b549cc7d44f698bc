"""The process that claims builds and runs them: leases, wishes, drain, takeover of the dead's.

Three kinds of threads: the caller's looks for work, one heartbeat renews leases and notices wishes,
and one a build runs its flow. A build whose lease is lost is dropped at once: its children are ended
and nothing more is written, because every write proves the claim in its own transaction.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Collection

from taskflow import exceptions as taskflow_errors

from imageflow import model, targets
from imageflow.build_run import BuildRun
from imageflow.complaints import Complaints
from imageflow.config import Config
from imageflow.errors import Cancelled, ClaimLost, ImageflowError
from imageflow.janitor import Janitor
from imageflow.persistence import builds, conductors
from imageflow.persistence.claim import Claim
from imageflow.reserve import Reserve
from imageflow.service import Service
from imageflow.signals import Flag

LOG = logging.getLogger(__name__)
_SOON = 0.02  # seconds after a lease has run out that its build is looked for


class Conductor:
    """Runs queued builds, up to `config.conductor.max_builds` at once."""

    def __init__(self, service: Service, *, only: Collection[str] | None = None) -> None:
        """`only`: the ids of the builds to run; all by default."""
        self._service = service
        self._config: Config = service.config
        self._database = service.database
        self._board = service.board
        targets.parse(service.config)  # a build that has succeeded must not find out that this is wrong
        self._only = None if only is None else frozenset(only)
        self._janitor = Janitor(service.database, service.config, service.store, service.board, service.compute)
        # Unique per process: a claim under a dead process's name would be taken for its own.
        self.name = f"{self._config.host}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._started = time.time()
        self._reserve = Reserve(self._config.state_dir / "reserve")
        self._complaints = Complaints()
        self._held: dict[str, BuildRun] = {}
        self._lock = threading.Lock()
        self._wake = Flag()
        self._draining = Flag()
        self._drain_end = float("inf")
        self._finished = threading.Event()

    # -- the caller's thread ---------------------------------------------------------------------

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Claim and run builds until `stop()`, or until `until()` says so and none runs here."""
        self._database.relief = self._reserve.give_up
        self._beat()
        self._reserve.keep()
        heartbeat = threading.Thread(target=self._heartbeat, name="heartbeat", daemon=True)
        heartbeat.start()
        tidy = threading.Thread(target=self._tidy, name="janitor", daemon=True)
        tidy.start()
        try:
            with concurrent.futures.ThreadPoolExecutor(self._config.conductor.max_builds, "build") as pool:
                while not self._draining.is_set() and not (until is not None and until() and not self._held):
                    self._claim_some(pool)
                    self._wake.wait(self._until_next_look())
                    self._wake.clear()
                self._drain()
        finally:
            self._finished.set()
            heartbeat.join()
            tidy.join(5.0)  # what it is at can be finished by the next one
            with self._complaints.instead_of_failing("say goodbye"):
                self._database.transact(lambda conn: conductors.remove(conn, self.name))

    def stop(self, *, now: bool = False) -> None:
        """Claim nothing more; let running steps end within the drain timeout, then hand the builds back.

        `now`: hand back at once. Safe in a signal handler and from any thread.
        """
        self._drain_end = time.monotonic() + (0.0 if now else self._config.conductor.drain_timeout)
        self._draining.set()
        self._wake.set()

    def wake(self) -> None:
        """There may be work; safe from any thread."""
        self._wake.set()

    def _until_next_look(self) -> float:
        """Seconds: the poll interval, or less when somebody's lease runs out before that."""
        poll = self._config.conductor.poll
        with self._complaints.instead_of_failing("look at the leases of others"):
            left = self._board.until_free(self.name)
            if left is not None:
                return min(poll, left + _SOON)
        return poll

    def _claim_some(self, pool: concurrent.futures.ThreadPoolExecutor) -> None:
        free = self._config.conductor.max_builds - len(self._held)
        if free <= 0:
            return
        with self._complaints.instead_of_failing("look for work"):
            for job in (
                self._board.iterjobs(only_unclaimed=True) if self._only is None else self._board.unclaimed(self._only)
            ):
                if free <= 0 or self._draining.is_set():
                    return
                build_id = str(job.name)
                if build_id in self._held:
                    continue
                lease_end = time.monotonic() + self._config.conductor.lease
                try:
                    self._board.claim(job, self.name, self._config.conductor.lease)
                except (taskflow_errors.UnclaimableJob, taskflow_errors.NotFound):
                    continue  # another one was faster
                run = BuildRun(self._service, Claim(self._board, job, lease_end), self.name, build_id)
                with self._lock:
                    self._held[build_id] = run
                pool.submit(self._carry_out, run)
                free -= 1

    def _carry_out(self, run: BuildRun) -> None:
        try:
            run.run()
        except ClaimLost:
            LOG.warning("build %s: the claim is lost, somebody else goes on with it", run.build_id)
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
        renewed = time.monotonic()
        while not self._finished.wait(min(self._config.conductor.poll, lease / 5)):
            running = self._running()
            try:
                self._see_wishes(running)
                if time.monotonic() - renewed > lease / 5:
                    began = time.monotonic()
                    self._renew(running)
                    self._beat()
                    renewed = began
            except Exception as error:  # noqa: BLE001 - whatever it is, the leases have to be watched
                self._complaints.add("renew the leases", error)
                if time.monotonic() - renewed > lease * 0.9:  # others may take our builds over from now on
                    for run in running:
                        run.lose()

    def _renew(self, running: list[BuildRun]) -> None:
        lease_end = time.monotonic() + self._config.conductor.lease
        lost = self._board.extend_all([run.claim.job for run in running], self._config.conductor.lease)
        for run in running:
            if run.claim.job not in lost:
                run.claim.until = lease_end
            elif not run.over:
                run.lose()

    def _see_wishes(self, running: list[BuildRun]) -> None:
        if not running:
            return
        with self._database.read() as conn:
            wishes = builds.wishes(conn, [run.build_id for run in running])
        for run in running:
            wish = wishes.get(run.build_id)
            if wish in (model.Wish.ABORT, model.Wish.CANCEL):
                run.interrupt(Cancelled(f"the build was asked to end ({wish})"))

    def _beat(self) -> None:
        if self._only is not None:
            return  # it serves nobody else: who counts on it would wait for nothing
        me = model.Conductor(
            self.name, self._config.host, os.getpid(), self._started, until=0.0, running=len(self._running())
        )
        self._database.transact(lambda conn: conductors.beat(conn, me, self._config.conductor.lease))

    # -- the janitor -----------------------------------------------------------------------------

    def _tidy(self) -> None:
        while True:
            self._reserve.keep()  # again, where it was given up
            with self._complaints.instead_of_failing("tidy up"):
                self._janitor.round()
            if self._finished.wait(self._config.janitor_interval):
                return
