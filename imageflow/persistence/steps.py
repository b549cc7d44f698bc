"""The step records: each execution of each step of a build, and the durations of earlier builds."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from imageflow.model import BuildState, Step, StepState
from imageflow.persistence.tables import builds, steps

INTERRUPTED = "interrupted: its worker stopped"  # nobody knows why
STOPPED = "interrupted: its conductor was asked to stop"
REBOOTED = "interrupted: its host was rebooted"
CRASHED = "it ended its worker: "  # how
_COLUMNS = [steps.c[f.name] for f in fields(Step)]


def _step(row: sa.Row[Any]) -> Step:
    values = dict(row._mapping)
    values["state"] = StepState(values["state"])
    values["phases"] = tuple((name, at) for name, at in values["phases"] or ())
    return Step(**values)


def begin(
    conn: sa.Connection,
    build_id: str,
    name: str,
    *,
    position: int,
    started: float,
    conductor: str | None = None,
    state: StepState = StepState.RUNNING,
) -> int:
    """Record the start of a step; -> the number of this attempt, from 1. Only the build's holder may call it.

    So an attempt that still runs belongs to a worker that died or gave up: it is over now.
    """
    before = (steps.c.build_id == build_id, steps.c.name == name, steps.c.state == StepState.RUNNING.value)
    over = {"state": StepState.FAILED.value, "ended": started, "error": INTERRUPTED}
    conn.execute(sa.update(steps).where(*before).values(**over))
    last = sa.select(sa.func.max(steps.c.attempt)).where(steps.c.build_id == build_id, steps.c.name == name)
    attempt = (conn.execute(last).scalar() or 0) + 1
    conn.execute(
        sa.insert(steps).values(
            build_id=build_id,
            name=name,
            attempt=attempt,
            position=position,
            state=state.value,
            started=started,
            conductor=conductor,
        )
    )
    return attempt


def stop(conn: sa.Connection, build_id: str, ended: float, why: str) -> None:
    """Record that the running attempt, if there is one, was ended from outside."""
    running = (steps.c.build_id == build_id, steps.c.state == StepState.RUNNING.value)
    over = {"state": StepState.FAILED.value, "ended": ended, "error": why}
    conn.execute(sa.update(steps).where(*running).values(**over))


def update(
    conn: sa.Connection,
    build_id: str,
    name: str,
    attempt: int,
    *,
    state: StepState | None = None,
    **values: Any,
) -> bool:
    """Set columns (`progress`, `message`, `phases`, `error`, …) of an attempt; -> whether it exists."""
    if state is not None:
        values["state"] = state.value
    if "phases" in values:
        values["phases"] = [list(phase) for phase in values["phases"]]
    statement = sa.update(steps).where(steps.c.build_id == build_id, steps.c.name == name, steps.c.attempt == attempt)
    return conn.execute(statement.values(**values)).rowcount == 1


def finish(
    conn: sa.Connection,
    build_id: str,
    name: str,
    attempt: int,
    state: StepState,
    *,
    ended: float,
    error: str | None = None,
    **values: Any,
) -> bool:
    """Record the end of an attempt; -> whether it exists."""
    if state is StepState.SUCCEEDED:
        values.setdefault("progress", 1.0)
    return update(conn, build_id, name, attempt, state=state, ended=ended, error=error, **values)


def forget(conn: sa.Connection, build_id: str, name: str, attempt: int) -> None:
    """Remove the record of an attempt that could not begin."""
    conn.execute(sa.delete(steps).where(steps.c.build_id == build_id, steps.c.name == name, steps.c.attempt == attempt))


def of(conn: sa.Connection, build_id: str) -> list[Step]:
    """All attempts of all steps of a build, in the flow's order, then by attempt."""
    query = sa.select(*_COLUMNS).where(steps.c.build_id == build_id)
    return [_step(row) for row in conn.execute(query.order_by(steps.c.position, steps.c.attempt))]


def last(conn: sa.Connection, build_id: str, name: str) -> Step | None:
    """The newest attempt of one step."""
    query = sa.select(*_COLUMNS).where(steps.c.build_id == build_id, steps.c.name == name)
    row = conn.execute(query.order_by(steps.c.attempt.desc()).limit(1)).first()
    return _step(row) if row else None


def history(conn: sa.Connection, image: str, limit: int = 5) -> list[list[Step]]:
    """The successful attempts of each of the last `limit` successful builds of an image, newest first."""
    query = (
        sa.select(builds.c.id)
        .where(builds.c.image == image, builds.c.state == BuildState.SUCCEEDED.value)
        .order_by(builds.c.seq.desc())
        .limit(limit)
    )
    earlier: dict[str, list[Step]] = {id: [] for id in conn.execute(query).scalars()}
    if earlier:
        done = sa.select(*_COLUMNS).where(
            steps.c.build_id.in_(list(earlier)), steps.c.state == StepState.SUCCEEDED.value
        )
        for row in conn.execute(done.order_by(steps.c.position, steps.c.attempt)):
            earlier[row.build_id].append(_step(row))
    return list(earlier.values())
