"""Turns a flow's state changes into step records, live progress and the build's log.

A step record is written in the transaction in which TaskFlow stores the step's state, so that the two
never disagree. Progress is written separately, at most once a second: a commit is a disk write.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sqlalchemy import Connection

from imageflow.errors import ClaimLost, DatabaseUnavailable, NoRoom
from imageflow.host.buildlog import BuildLog
from imageflow.host.control import Control
from imageflow.model import StepState
from imageflow.persistence import builds, steps
from imageflow.persistence.database import Database

LOG = logging.getLogger(__name__)
PROGRESS_INTERVAL = 1.0  # seconds

# TaskFlow's state of a step -> ours; a step that TaskFlow resets keeps its last record
_STATES = {
    "RUNNING": StepState.RUNNING,
    "SUCCESS": StepState.SUCCEEDED,
    "FAILURE": StepState.FAILED,
    "REVERTING": StepState.REVERTING,
    "REVERTED": StepState.REVERTED,
    "REVERT_FAILURE": StepState.REVERT_FAILED,
}


class AtomDetail(Protocol):
    """What we read of a TaskFlow atom detail."""

    name: str
    state: str
    failure: Any
    revert_results: Any


class Recorder:
    """The recorder of one run of one build."""

    def __init__(
        self,
        database: Database,
        build_id: str,
        *,
        conductor: str,
        prove: Callable[[Connection], None],
        log: BuildLog,
        control: Control,
        step_timeout: Callable[[str], float],
        explain: Callable[[Any], tuple[str, str | None]],
    ) -> None:
        """`prove` raises ClaimLost in a write's transaction; `explain` turns a failure into (error, hint).

        `step_timeout` gives the time limit of a step in seconds, by its name.
        """
        self._database = database
        self._build_id = build_id
        self._conductor = conductor
        self._prove = prove
        self._log = log
        self._control = control
        self._step_timeout = step_timeout
        self._explain = explain
        self._positions: Mapping[str, int] = {}
        self._lock = threading.Lock()
        self._step = ""
        self._attempt = 0
        self._began = 0.0
        self._fraction = 0.0
        self._phase = ""
        self._phases: list[tuple[str, float]] = []
        self._written = 0.0  # monotonic time of the last progress write

    def order(self, positions: Mapping[str, int]) -> None:
        """Set each step's place in the flow, from 0."""
        self._positions = positions

    def on_atom(self, conn: Connection, before: AtomDetail, after: AtomDetail) -> None:
        """A step's state changes; called in the transaction that stores it, again if that is repeated."""
        state = _STATES.get(after.state)
        if state is None or after.name not in self._positions:
            return
        now = time.time()
        if state is StepState.RUNNING:
            self._begin(conn, after.name, now)
        elif state is StepState.SUCCEEDED:
            with self._lock:
                phases = list(self._phases)
            steps.finish(conn, self._build_id, after.name, self._attempt, state, ended=now, phases=phases)
            self._log(f"done in {now - self._began:.1f} s")
        elif state is StepState.FAILED and after.failure is not None and after.failure.check(NoRoom):
            steps.forget(conn, self._build_id, after.name, self._attempt)  # it has not begun
            self._log("gives its place to other builds until there is room")
        elif state is StepState.FAILED:
            error, hint = self._explain(after.failure)
            error = self._log.clean(error)
            steps.finish(conn, self._build_id, after.name, self._attempt, state, ended=now, error=error)
            self._log(f"FAILED: {error}" + (f" ({hint})" if hint else ""))
        else:
            self._note_revert(conn, after, state, now)

    def _note_revert(self, conn: Connection, atom: AtomDetail, state: StepState, now: float) -> None:
        last = steps.last(conn, self._build_id, atom.name)
        if last is None:
            return  # it never ran: TaskFlow reverts it nevertheless
        if state is StepState.REVERTING:
            self._log.step = atom.name
            self._control.begin_step(atom.name, self._step_timeout(atom.name))
            steps.update(conn, self._build_id, atom.name, last.attempt, state=state)
            self._log("reverting")
            return
        left = atom.revert_results.get("left") if isinstance(atom.revert_results, dict) else None
        if state is StepState.REVERT_FAILED:
            left = left or "its revert failed"
        if left:
            left = self._log.clean(left)
            self._log(f"could not be removed, left for the janitor: {left}")
        steps.finish(conn, self._build_id, atom.name, last.attempt, state, ended=now, error=left or last.error)

    def _begin(self, conn: Connection, name: str, now: float) -> None:
        attempt = steps.begin(
            conn, self._build_id, name, position=self._positions[name], conductor=self._conductor, started=now
        )
        builds.note_step(conn, self._build_id, name, now)
        with self._lock:
            self._step, self._attempt, self._began = name, attempt, now
            self._fraction, self._phase, self._phases = 0.0, "", []
            self._written = time.monotonic()
        self._log.step = name
        self._control.begin_step(name, self._step_timeout(name))
        self._log("started" if attempt == 1 else f"started again (attempt {attempt})")

    def progress(self, fraction: float, phase: str = "") -> None:
        """Progress (0 … 1) and phase of the running step; from any thread, as often as you like."""
        with self._lock:
            self._fraction = max(self._fraction, min(1.0, fraction))
            if phase and phase != self._phase:
                self._phase = phase
                self._phases.append((phase, round(time.time() - self._began, 2)))
            if time.monotonic() - self._written < PROGRESS_INTERVAL:
                return
            self._written = time.monotonic()
            step, attempt, fraction, phase = self._step, self._attempt, self._fraction, self._phase
            phases = list(self._phases)
        try:
            with self._database.begin() as conn:
                self._prove(conn)
                steps.update(
                    conn,
                    self._build_id,
                    step,
                    attempt,
                    progress=fraction,
                    message=self._log.clean(phase),
                    phases=phases,
                )
        except ClaimLost as error:
            self._control.stop(error)
        except DatabaseUnavailable:
            LOG.debug("progress of build %s not stored: the database is down", self._build_id)
