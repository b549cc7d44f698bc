"""One conductor's run of one build, from the claim to the end of its job.

Whatever happens ends in one transaction that proves the claim, says what became of the build, and
consumes the job: succeeded, paused, failed, aborted, cancelled, or handed back to the queue.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from imageflow import endings, process, secrets
from imageflow.buildlog import BuildLog
from imageflow.control import Control
from imageflow.engine import End, FlowRun, Outcome, describe
from imageflow.errors import (
    BadInput,
    ClaimLost,
    DatabaseUnavailable,
    ImageflowError,
    Refused,
    SecretMissing,
    Unavailable,
)
from imageflow.machines import has_machine
from imageflow.model import Build, BuildState, Step, StepState, Wish
from imageflow.persistence import builds, outbox, steps
from imageflow.persistence.claim import Claim
from imageflow.persistence.ledger import BuildLedger
from imageflow.recorder import Recorder
from imageflow.service import Service
from imageflow.stages import limits

LOG = logging.getLogger(__name__)
DEATHS = 10  # workers in a row that may die in the same step, or be stopped in it, before its build pauses
PATIENCE = 60.0  # seconds that a write waits for a database that is away
MACHINES = 3  # times that a build loses its machine with all that was done on it, before that is its failure


class BuildRun:
    """Runs one claimed build in the calling thread; the other methods come from the conductor's threads."""

    def __init__(self, service: Service, claim: Claim, conductor: str, build_id: str) -> None:
        self._service = service
        self._config = service.config
        self._database = service.database
        self._conductor = conductor
        self.claim = claim
        self.build_id = build_id
        self.control = Control(build_id=build_id, guard=claim.check)
        self.over = False  # the job is consumed or given back
        self._log = BuildLog(service.log_path(build_id))
        self._suspend = threading.Event()
        self._reverting = False

    # -- from other threads ----------------------------------------------------------------------

    def suspend(self) -> None:
        """Stop after the running step and hand the build back."""
        self._suspend.set()

    def release(self) -> None:
        """Stop now: the running step is ended, will run again, and nothing more is written about it."""
        self._suspend.set()
        self.claim.drop()
        self.control.stop(ClaimLost("the build is handed back"))

    def lose(self) -> None:
        """The lease is over: drop everything."""
        self.claim.drop()
        self.control.stop(ClaimLost())

    def interrupt(self, why: ImageflowError) -> None:
        """End the running step, because the build was asked to end; reverts are not interrupted."""
        control = self.control  # taken first: a revert that begins now has another one
        if not self._reverting:
            self._suspend.set()
            control.stop(why)

    # -- the build's thread ----------------------------------------------------------------------

    def run(self) -> None:
        """Run the build to the end of its job; ClaimLost when it isn't ours any more."""
        try:
            self._run()
        except ClaimLost:
            if self._suspend.is_set() and self.claim.dropped:
                self.hand_back()
                return
            raise

    def _run(self) -> None:
        build = self._take()
        if build is None:
            return
        process.end_leftovers(build.id)
        log = self._log
        try:
            if build.wish is not None:
                self._revert(build, log)
                return
            outcome = self._forward(build, log)
            if outcome.end is End.SUCCEEDED:
                self._succeed(build, outcome, log)
                return
            said: dict[str, Any] = {"error": _cleaned(log, outcome.error), "hint": _cleaned(log, outcome.hint)}
            if outcome.end is End.FAILED and build.recipe.get("on_failure") == "revert":
                self._write(lambda conn: builds.change(conn, build.id, unwished=True, wish=Wish.REVERT, **said))
                build = replace(build, **said)
            wish = self._wish()
            if wish is None and outcome.end is End.FAILED:
                if self._pause(outcome, log):
                    return
                wish = self._wish()  # it was asked to end in this very moment
            if wish is not None:
                self._revert(replace(build, wish=wish), log)
            else:
                self.hand_back()
        finally:
            log.close()

    def _take(self) -> Build | None:
        """Make the build ours in the database, or end a job that nobody needs any more."""
        deadline: float | None = None

        def take(conn: Connection) -> Build | None:
            nonlocal deadline
            self.claim.prove(conn)
            build = builds.get(conn, self.build_id)
            if build.state.ended or build.state is BuildState.PAUSED:
                self.claim.board.consume_in(conn, self.claim.job)  # a worker died between the end and its job's
                return None
            if deadline is None and build.deadline is not None:
                deadline = build.deadline + self.claim.job.idle  # time without a worker is not the build's
            elif deadline is None:
                deadline = time.time() + self._timeout(build, "build", self._config.builds.timeout)
            builds.change(
                conn,
                build.id,
                to=BuildState.REVERTING if build.wish else BuildState.RUNNING,
                conductor=self._conductor,
                host=self._config.host,
                deadline=deadline,
            )
            if build.conductor is None and build.wish is None:
                outbox.announce_build(conn, self._config.announce.targets, "start", build)
            return replace(build, conductor=self._conductor, host=self._config.host, deadline=deadline)

        build = self._database.transact(take, patience=PATIENCE)
        self.over = build is None
        if build is not None:
            LOG.info("build %s: %s %s", build.id, "ending" if build.wish else "building", build.image)
        return build

    @staticmethod
    def _timeout(build: Build, which: str, default: float) -> float:
        limits = build.recipe.get("timeout") or {}
        return float(limits.get(which) or default)

    def _step_timeout(self, build: Build) -> Callable[[str], float]:
        """Seconds that each step may take: its own limit, the recipe's, or the configuration's."""
        own = {} if build.method not in ("boot", "install") else limits(build.recipe)
        default = self._timeout(build, "step", self._config.builds.step_timeout)
        return lambda name: own.get(name) or default

    def _flow(self, build: Build, log: BuildLog, control: Control, *, revert: bool) -> tuple[FlowRun, Recorder]:
        recorder = Recorder(
            self._database,
            build.id,
            conductor=self._conductor,
            prove=self.claim.prove,
            log=log,
            control=control,
            step_timeout=self._step_timeout(build),
            explain=describe,
        )

        def secret(name: str) -> str:
            value = secrets.resolve(name, self._config)
            log.mask(value)
            return value

        for name in secrets.named_in(build.recipe):  # what an earlier worker's steps wrote may hold them
            with contextlib.suppress(SecretMissing):
                secret(name)

        own_ledger = BuildLedger(self._database, build.id, self._config.host, self.claim.prove)
        inject: dict[str, Any] = {
            "build": build,
            "config": self._config,
            "log": log,
            "progress": recorder.progress,
            "control": control,
            "ledger": own_ledger,
            "store": self._service.store,
            "compute": self._service.compute,
            "secret": secret,
        }
        if has_machine(build):
            from imageflow.tasks.workbench import Workbench  # SSH, which no other build needs

            inject["bench"] = Workbench(
                build, self._config, self._service.compute, own_ledger, control, log, recorder.progress
            )
        flow = FlowRun(
            self._service.flows.fenced(self.claim.prove, recorder.on_atom, clean=log.clean),
            build,
            inject,
            revert=revert,
        )
        recorder.order(flow.positions)
        return flow, recorder

    def _forward(self, build: Build, log: BuildLog) -> Outcome:
        assert build.deadline is not None
        self.control.limit(time.monotonic() + build.deadline - time.time())
        for _ in range(MACHINES):
            outcome = self._attempt(build, log)
            if not outcome.lost or self._suspend.is_set():
                break
            log(f"{outcome.error} It goes on from its last layer")
            self._write(lambda conn: self._service.flows.reset_failed(conn, build.flow))
        return outcome

    def _attempt(self, build: Build, log: BuildLog) -> Outcome:
        """Run the flow from where it is to its end, or to its first failure."""
        flow, _recorder = self._flow(build, log, self.control, revert=False)
        failed = flow.failed()
        if failed is not None:  # a worker died between the failure and its bookkeeping
            return failed
        if (deadly := self._deadly(build)) is not None:
            return deadly
        try:
            self._service.hosted.ensure(Path(build.folder), self.control)
        except DatabaseUnavailable:
            raise
        except (BadInput, Refused, Unavailable) as error:
            return Outcome(End.FAILED, {}, None, error.message, error.hint)
        flow.rewind()
        lost = flow.forget_lost()
        if lost:
            log(f"what these steps made is not here any more, they run again: {', '.join(lost)}")
        return flow.run(self._suspend.is_set)

    def _deadly(self, build: Build) -> Outcome | None:
        """The failure of a step that its workers did not survive, again and again: it must not end them all."""
        with self._database.read() as conn:
            records = [step for step in steps.of(conn, build.id) if step.name == build.step]

        def unfinished(step: Step) -> bool:
            return step.state is StepState.RUNNING or step.error == steps.INTERRUPTED

        died = len(list(itertools.takewhile(unfinished, reversed(records))))
        if died < DEATHS:
            return None
        last, error = records[-1], f"{died} workers in a row died in this step, or gave it up"
        hint = "see the system's log (out of memory?), then resume or abort the build"
        failed = functools.partial(
            steps.finish, build_id=build.id, name=last.name, attempt=last.attempt, state=StepState.FAILED
        )
        self._write(lambda conn: failed(conn, ended=time.time(), error=error))
        return Outcome(End.FAILED, {}, last.name, error, hint)

    def _revert(self, build: Build, log: BuildLog) -> None:
        """Remove everything the build made, then end it as its wish says."""
        assert build.wish is not None
        self._reverting = True
        self.control = Control(build_id=build.id, guard=self.claim.check)
        if self.claim.dropped:
            raise ClaimLost()
        self._write(lambda conn: builds.change(conn, build.id, to=BuildState.REVERTING))
        left = log.clean("; ".join(self._undo(build, log)))
        state = build.wish.outcome
        log.step = ""
        log(f"{state}" + (f"; left for the janitor: {left}" if left else "; everything it made is removed"))

        if self._end(lambda conn: endings.reverted(conn, self._service, build, left)):
            LOG.info("build %s: %s", build.id, state)

    def _undo(self, build: Build, log: BuildLog) -> tuple[str, ...]:
        """Revert the steps; -> what could not be removed, in words: the ledger and the janitor know it, too."""
        try:
            flow, _recorder = self._flow(build, log, self.control, revert=True)
        except ImageflowError:
            raise
        except Exception as error:  # its package is gone, its rows are damaged: it has to end all the same
            LOG.exception("build %s: its flow can't be loaded, its steps are not reverted", build.id)
            return (f"its flow can't be loaded ({type(error).__name__}: {error})",)
        with self._database.read() as conn:
            last = {step.name: step.state for step in steps.of(conn, build.id)}
        return flow.revert([name for name, state in last.items() if state is not StepState.REVERTED]).left

    def _succeed(self, build: Build, outcome: Outcome, log: BuildLog) -> None:
        publication = outcome.results["publication"]
        now = time.time()
        log.step = ""
        log(f"succeeded: {publication['digest']} at {publication['path']}")

        self._end(lambda conn: endings.succeeded(conn, self._service, build, publication, now))
        LOG.info("build %s: succeeded, %s", build.id, publication["path"])
        try:
            self._service.images.retire(str(publication.get("image") or build.image), build.recipe)
        except ImageflowError as error:  # the next build of the image tries again
            LOG.warning("build %s: old versions are still there: %s", build.id, error)
            log(f"old versions are still there: {error}")

    def _pause(self, outcome: Outcome, log: BuildLog, *, unwished: bool = True) -> bool:
        """-> False, and nothing is written, when it is to be `unwished` and was asked to end meanwhile."""
        why = {
            "step": outcome.step,
            "error": _cleaned(log, outcome.error) or "",
            "hint": _cleaned(log, outcome.hint),
        }
        if not self._end(lambda conn: endings.paused(conn, self._service, self.build_id, unwished=unwished, **why)):
            return False
        LOG.info("build %s: paused", self.build_id)
        log.step = ""
        log(f"paused: {outcome.step}: {outcome.error}; resume or abort it")
        return True

    def pause_for_bug(self) -> None:
        """An error that nobody foresaw: keep everything, say so, let a person look at it."""
        log = self._log
        try:
            log(traceback.format_exc())
            error = traceback.format_exc().strip().rpartition("\n")[2]
            hint = "this is a bug in imageflow: the build log has the traceback"
            self._pause(Outcome(End.FAILED, {}, None, error, hint), log, unwished=False)
        finally:
            log.close()

    def hand_back(self) -> None:
        """Put the build back into the queue for whoever comes next."""

        def back(conn: Connection) -> None:
            self.claim.board.prove(conn, self.claim.job)
            builds.change(conn, self.build_id, to=BuildState.QUEUED, frm=(BuildState.RUNNING,))
            self.claim.board.abandon_in(conn, self.claim.job)

        self._database.transact(back, patience=self._config.conductor.lease)
        self.over = True

    def _wish(self) -> Wish | None:
        with self._database.read() as conn:
            return builds.wishes(conn, [self.build_id]).get(self.build_id)

    def _write(self, work: Any) -> None:
        def fenced(conn: Connection) -> None:
            self.claim.prove(conn)
            work(conn)

        self._database.transact(fenced, patience=PATIENCE)

    def _end(self, work: Any) -> bool:
        """Write the end of the build and consume its job, together or not at all; not when `work` says False."""

        def ending(conn: Connection) -> bool:
            self.claim.prove(conn)
            if work(conn) is False:
                return False
            self.claim.board.consume_in(conn, self.claim.job)
            return True

        self.over = self._database.transact(ending, patience=PATIENCE)
        return self.over


def _cleaned(log: BuildLog, text: str | None) -> str | None:
    return log.clean(text) if text else None
