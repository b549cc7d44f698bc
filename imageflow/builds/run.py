"""One conductor's run of one build, from the claim to the end of its job.

Every run ends in one transaction that proves the claim, records the outcome of the build, and
consumes the job: succeeded, paused, failed, aborted, cancelled, or handed back to the queue.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from imageflow.builds import apart, loading, parking, room, transitions
from imageflow.builds.engine import FlowEnd, FlowResult, FlowRun
from imageflow.builds.parts import Parts
from imageflow.errors import (
    BadInput,
    ClaimLost,
    DatabaseUnavailable,
    ImageflowError,
    NoRoom,
    Refused,
    Unavailable,
)
from imageflow.host import process
from imageflow.host.buildlog import BuildLog, log_path
from imageflow.host.control import Control
from imageflow.model import Build, Step, StepState, Wish
from imageflow.persistence import builds, steps
from imageflow.persistence.claim import Claim
from imageflow.persistence.patience import BUILD
from imageflow.recipe import ImageRecipe, OnFailure

if TYPE_CHECKING:
    from imageflow.tasks.results import PublicationResult

LOG = logging.getLogger(__name__)
SUSPECT = 3  # workers in a row that may die in the same step before its build runs in a process of its own …
CRASHES = 3  # … and how often that process may die before the build pauses
MACHINES = 3  # times that a build may lose its machine with all work on it before it fails


class BuildRun:
    """Runs one claimed build in the calling thread; the other methods come from the conductor's threads."""

    def __init__(
        self,
        parts: Parts,
        claim: Claim,
        conductor: str,
        build_id: str,
        *,
        ending: bool = False,
        alone: bool = False,
    ) -> None:
        """`ending`: it was asked to end before. `alone`: this is the build's own process, see `apart`."""
        self._parts = parts
        self._config = parts.config
        self._database = parts.database
        self._conductor = conductor
        self.claim = claim
        self.build_id = build_id
        self.control = Control(build_id=build_id, guard=claim.check)
        self.over = False  # the job is consumed or released
        self._log = BuildLog(log_path(parts.config.logs_dir, build_id), most=int(parts.config.builds.max_log * 2**20))
        self._suspend = threading.Event()
        self._reverting, self._alone = ending, alone
        self._elsewhere = False  # its own process runs it, and sees by itself what is asked for
        self._deadline: float | None = None

    @property
    def ending(self) -> bool:
        """Whether everything it made is being removed."""
        return self._reverting

    # -- from other threads ----------------------------------------------------------------------

    def suspend(self) -> None:
        """Stop after the running step and hand the build back."""
        self._suspend.set()

    def release(self) -> None:
        """Stop now: the running step is ended and will run again; nothing more is written about it."""
        self._suspend.set()
        self.claim.drop()
        self.control.stop(ClaimLost("the build is handed back"))

    def lose(self) -> None:
        """The lease has expired: drop everything."""
        self.claim.drop()
        self.control.stop(ClaimLost())

    def interrupt(self, why: ImageflowError) -> None:
        """End the running step, because the build was asked to end; reverts are not interrupted."""
        control = self.control  # read first: a revert that begins now has another one
        if self._elsewhere:
            self._reverting = True  # its own process does it
        elif not self._reverting:
            self._suspend.set()
            control.stop(why)

    # -- the build's thread ----------------------------------------------------------------------

    def run(self) -> None:
        """Run the build to the end of its job. Raises ClaimLost when it is no longer ours."""
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
            outcome = self._run_apart(build) if self._is_suspect(build) else self._forward(build, log)
            if outcome is None:
                return
            if outcome.end is FlowEnd.SUCCEEDED:
                self._succeed(build, outcome, log)
                return
            said: dict[str, Any] = {"error": _cleaned(log, outcome.error), "hint": _cleaned(log, outcome.hint)}
            if _failed(outcome) and ImageRecipe.from_json(build.recipe).on_failure is OnFailure.REVERT:
                self._write(lambda conn: transitions.wish_revert(conn, self._parts, build.id, **said))
                build = replace(build, **said)
            wish = self._wish()
            if wish is None and outcome.waits is not None:
                if self._wait(build, outcome):
                    return
                wish = self._wish()  # it was asked to end at this very moment
            elif wish is None and outcome.end is FlowEnd.FAILED:
                if self._pause(outcome, log):
                    return
                wish = self._wish()  # it was asked to end at this very moment
            if wish is not None:
                self._revert(replace(build, wish=wish), log)
            else:
                self.hand_back()
        finally:
            log.close()

    def _take(self) -> Build | None:
        """Mark the build as ours in the database, or consume the job if the build needs no more work."""
        build = self._database.transact(
            lambda conn: transitions.take(
                conn, self._parts, self.claim, self.build_id, self._conductor, self._found_deadline
            ),
            patience=BUILD,
        )
        self.over = build is None
        if build is not None:
            LOG.info("build %s: %s %s", build.id, "ending" if build.wish else "building", build.image)
        return build

    def _found_deadline(self, build: Build) -> float:
        """When the build's own timeout expires; stable when the transaction that writes it is repeated."""
        if self._deadline is None and build.deadline is not None:
            # Time without a worker does not count; a later time was written before the clock was set back.
            self._deadline = min(build.deadline + self.claim.job.idle, time.time() + self._limit(build))
        elif self._deadline is None:
            self._deadline = time.time() + self._limit(build)
        return self._deadline

    def _limit(self, build: Build) -> float:
        return ImageRecipe.from_json(build.recipe).timeout.build or self._config.builds.timeout

    def _flow(self, build: Build, *, revert: bool = False) -> FlowRun:
        return loading.load(self._parts, self.claim, self._conductor, build, self._log, self.control, revert=revert)

    def _forward(self, build: Build, log: BuildLog) -> FlowResult:
        assert build.deadline is not None
        self.control.limit(time.monotonic() + build.deadline - time.time())
        self.control.yields = True
        for _ in range(MACHINES):
            outcome = self._attempt(build, log)
            if not outcome.lost or self._suspend.is_set():
                break
            log(f"{outcome.error} It continues from its last layer")
            self._write(lambda conn: self._parts.flows.reset_failed(conn, build.flow))
        return outcome

    def _attempt(self, build: Build, log: BuildLog) -> FlowResult:
        """Run the flow from its current state to its end, or to its first failure."""
        flow = self._flow(build)
        failed = flow.failed()
        if failed is not None and failed.waits is not None:  # a worker died before it had given the build back
            self._write(lambda conn: self._parts.flows.reset_failed(conn, build.flow))
            flow, failed = self._flow(build), None
        if failed is not None:  # a worker died between the failure and recording it
            return failed
        try:
            self._parts.checkouts.ensure(Path(build.folder), self.control)
        except DatabaseUnavailable:
            raise
        except (BadInput, Refused, Unavailable) as error:
            return FlowResult(FlowEnd.FAILED, {}, None, error.message, error.hint)
        try:
            parking.bring_back(self._parts, build, self.control, self._log)
        except NoRoom as error:
            return FlowResult(FlowEnd.FAILED, {}, None, error.message, waits=error.machine)
        except (Refused, Unavailable) as error:
            return FlowResult(FlowEnd.FAILED, {}, None, error.message, error.hint)
        flow.rewind()
        lost = flow.forget_lost()
        if lost:
            log(f"the results of these steps no longer exist, they run again: {', '.join(lost)}")
        return flow.run(self._suspend.is_set)

    def _deaths(self, build: Build) -> tuple[list[Step], int]:
        """The attempts of the current step in which a worker died, one after the other, and how many it is known to have ended.

        What was stopped, or went down with its host, says nothing about the step.
        """
        with self._database.read() as conn:
            records = [step for step in steps.of(conn, build.id) if step.name == build.step]
        told = [step for step in reversed(records) if step.error not in (steps.STOPPED, steps.REBOOTED)]

        def died(step: Step) -> bool:
            return step.state is StepState.RUNNING or str(step.error).startswith((steps.INTERRUPTED, steps.CRASHED))

        found = list(itertools.takewhile(died, told))
        return found, sum(str(step.error).startswith(steps.CRASHED) for step in found)

    def _is_suspect(self, build: Build) -> bool:
        return not self._alone and len(self._deaths(build)[0]) >= SUSPECT

    def _run_apart(self, build: Build) -> FlowResult | None:
        """Run the build in a process of its own, again while that dies: a few times, then it fails; -> None when it is over."""
        self._elsewhere = True
        self.control = Control(guard=self.claim.check)
        self._log(f"{len(self._deaths(build)[0])} workers died in this step: it runs in a process of its own")
        while (crashes := self._deaths(build)[1]) < CRASHES:
            try:
                how = apart.run(self._parts, self.claim, self._conductor, build.id, self.control, self._suspend.is_set)
            except ClaimLost:
                if (job := self._parts.board.look(self.claim.job)) is not None and job.owner:
                    raise
                how = None  # its process has ended the job, and still exits
            if how is None:
                self.over = True
                return None
            self._log(f"{how}: that is crash {crashes + 1} of {CRASHES}")
            self._note_crash(build, how)
            with self._database.read() as conn:
                build = builds.get(conn, build.id)
        last = self._deaths(build)[0][0]
        error = f"this step ended its worker {crashes} times, in a process of its own ({str(last.error).removeprefix(steps.CRASHED)})"
        end = functools.partial(
            steps.finish, build_id=build.id, name=last.name, attempt=last.attempt, state=StepState.FAILED
        )
        self._write(lambda conn: end(conn, ended=time.time(), error=error))
        hint = "see the system's log (out of memory?), then resume or abort the build"
        self._elsewhere = self._reverting = False
        return FlowResult(FlowEnd.FAILED, {}, last.name, error, hint)

    def _note_crash(self, build: Build, how: str) -> None:
        """Record it in the running attempt, or in one of its own when the process died between two steps."""
        now, error = time.time(), f"{steps.CRASHED}{how}"

        def note(conn: Connection) -> None:
            found = steps.of(conn, build.id)
            if not any(step.state is StepState.RUNNING for step in found):
                name = build.step or (found[-1].name if found else "build")
                place = next((step.position for step in found if step.name == name), 0)
                steps.begin(conn, build.id, name, position=place, started=now, conductor=self._conductor)
            steps.stop(conn, build.id, now, error)

        self._write(note)

    def _revert(self, build: Build, log: BuildLog) -> None:
        """Remove everything the build made, then end it according to its wish."""
        assert build.wish is not None
        self._reverting = True
        self.control = Control(build_id=build.id, guard=self.claim.check)
        if self.claim.dropped:
            raise ClaimLost()
        self._write(lambda conn: transitions.begin_revert(conn, build.id))
        left = log.clean("; ".join(self._undo(build, log)))
        state = build.wish.outcome
        log.step = ""
        log(f"{state}" + (f"; left for the janitor: {left}" if left else "; everything it made is removed"))

        if self._end(lambda conn: transitions.revert(conn, self._parts, build, left)):
            LOG.info("build %s: %s", build.id, state)

    def _undo(self, build: Build, log: BuildLog) -> tuple[str, ...]:
        """Revert the steps; -> descriptions of what could not be removed, which the ledger and the janitor know, too."""
        try:
            flow = self._flow(build, revert=True)
        except ImageflowError:
            raise
        except Exception as error:  # its package is gone or its rows are damaged: the build has to end nevertheless
            LOG.exception("build %s: its flow can't be loaded, its steps are not reverted", build.id)
            return (f"its flow can't be loaded ({type(error).__name__}: {error})",)
        with self._database.read() as conn:
            last = {step.name: step.state for step in steps.of(conn, build.id)}
        return flow.revert([name for name, state in last.items() if state is not StepState.REVERTED]).left

    def _succeed(self, build: Build, outcome: FlowResult, log: BuildLog) -> None:
        publication: PublicationResult = outcome.results["publication"]
        now = time.time()
        log.step = ""
        log(f"succeeded: {publication['digest']} at {publication['path']}")

        self._end(lambda conn: transitions.succeed(conn, self._parts, build, publication, now))
        LOG.info("build %s: succeeded, %s", build.id, publication["path"])
        try:
            self._parts.images.retire(publication["image"], build.recipe)
        except ImageflowError as error:  # the next build of the image tries again
            LOG.warning("build %s: old versions are still there: %s", build.id, error)
            log(f"old versions are still there: {error}")

    def _wait(self, build: Build, outcome: FlowResult) -> bool:
        """Leave the place to other builds until there is room for a machine; -> False when it was asked to end meanwhile."""
        assert outcome.waits is not None
        waits = room.for_room(build, outcome.waits, outcome.error or "", self._config.host)
        self.over = self._database.transact(
            lambda conn: transitions.wait(conn, self._parts, self.claim, build, waits), patience=BUILD
        )
        return self.over

    def _pause(self, outcome: FlowResult, log: BuildLog, *, unwished: bool = True) -> bool:
        """-> False, with nothing written, when `unwished` is required and the build was asked to end in the meantime."""
        why = {
            "step": outcome.step,
            "error": _cleaned(log, outcome.error) or "",
            "hint": _cleaned(log, outcome.hint),
        }
        if not self._end(lambda conn: transitions.pause(conn, self._parts, self.build_id, unwished=unwished, **why)):
            return False
        LOG.info("build %s: paused", self.build_id)
        log.step = ""
        log(f"paused: {outcome.step}: {outcome.error}; resume or abort it")
        return True

    def pause_for_bug(self) -> None:
        """An unexpected error: keep everything, record the error, leave the build to an operator."""
        log = self._log
        try:
            log(traceback.format_exc())
            error = traceback.format_exc().strip().rpartition("\n")[2]
            hint = "this is a bug in imageflow: the build log has the traceback"
            self._pause(FlowResult(FlowEnd.FAILED, {}, None, error, hint), log, unwished=False)
        finally:
            log.close()

    def hand_back(self) -> None:
        """Put the build back into the queue for the next conductor."""
        self._database.transact(
            lambda conn: transitions.hand_back(conn, self.claim, self.build_id), patience=self._config.conductor.lease
        )
        self.over = True

    def _wish(self) -> Wish | None:
        with self._database.read() as conn:
            return builds.wishes(conn, [self.build_id]).get(self.build_id)

    def _write(self, work: Any) -> None:
        def fenced(conn: Connection) -> None:
            self.claim.prove(conn)
            work(conn)

        self._database.transact(fenced, patience=BUILD)

    def _end(self, work: Any) -> bool:
        """Write the end of the build and consume its job, both or neither; nothing when `work` returns False."""

        def ending(conn: Connection) -> bool:
            self.claim.prove(conn)
            if work(conn) is False:
                return False
            self.claim.board.consume_in(conn, self.claim.job)
            return True

        self.over = self._database.transact(ending, patience=BUILD)
        return self.over


def _failed(outcome: FlowResult) -> bool:
    return outcome.end is FlowEnd.FAILED and outcome.waits is None


def _cleaned(log: BuildLog, text: str | None) -> str | None:
    return log.clean(text) if text else None
