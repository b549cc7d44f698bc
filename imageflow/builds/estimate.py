"""Progress and remaining time of a build, from the step records of this image's earlier builds: pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from imageflow.model import Build, BuildState, Step, StepState

History = Sequence[Sequence[Step]]  # the succeeded steps of each earlier succeeded build, newest first


@dataclass(frozen=True, slots=True)
class Estimate:
    """Progress and remaining time of a build; seconds are None where unknown."""

    progress: float  # 0 … 1, of the whole build
    remaining: float | None  # seconds until the build ends
    step_remaining: float | None  # seconds until the running step ends


def typical_seconds(history: History, names: Sequence[str]) -> float | None:
    """Seconds that a whole build takes: the sum of the steps' medians; None without history."""
    medians = _medians(history)
    known = [medians[name] for name in names if name in medians]
    return sum(known) if known else None


def _medians(history: History) -> dict[str, float]:
    seconds: dict[str, list[float]] = {}
    for step in (step for earlier in history for step in earlier):
        if step.started is not None and step.ended is not None:
            seconds.setdefault(step.name, []).append(step.ended - step.started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def estimate(build: Build, steps: Sequence[Step], history: History, now: float) -> Estimate:
    """Progress of `build` at `now`, from its own step records and those of earlier builds."""
    if build.state is BuildState.SUCCEEDED:
        return Estimate(1.0, 0.0, 0.0)
    medians = _medians(history)
    last = {step.name: step for step in steps}
    done = {name for name, step in last.items() if step.state is StepState.SUCCEEDED}
    running = next((step for step in last.values() if step.state is StepState.RUNNING), None)
    step_left = _step_left(running, history, medians, now) if running is not None else None
    if not medians:
        return Estimate(
            0.0 if running is None else running.progress * 0.9, step_left if _dominant(running) else None, step_left
        )
    total = sum(medians.values())
    left = sum(
        seconds for name, seconds in medians.items() if name not in done and (running is None or name != running.name)
    )
    left += step_left or 0.0
    progress = min(0.99, max(0.0, 1 - left / total)) if total > 0 else 0.0
    return Estimate(progress, left, step_left)


def _dominant(step: Step | None) -> bool:
    """Without history, only a step that reports progress says something about the end of the build."""
    return step is not None and bool(step.phases)


def _step_left(step: Step, history: History, medians: dict[str, float], now: float) -> float | None:
    elapsed = now - (step.started or now)
    earlier = next((old for steps in history for old in steps if old.name == step.name), None)
    if earlier is not None and step.phases:
        by_phase = _left_by_phase(step, earlier, elapsed)
        if by_phase is not None:
            return by_phase
    if step.name in medians:
        return max(0.0, medians[step.name] - elapsed)
    if step.progress > 0.05:
        return elapsed * (1 - step.progress) / step.progress
    return None


def _left_by_phase(step: Step, earlier: Step, elapsed: float) -> float | None:
    """The earlier run's time from the start of the current phase to its end, less the time spent in it so far."""
    phase, began = step.phases[-1]
    starts = dict(earlier.phases)
    if phase not in starts or earlier.started is None or earlier.ended is None:
        return None
    ends = sorted(start for start in starts.values() if start > starts[phase])
    whole = earlier.ended - earlier.started
    length = (ends[0] if ends else whole) - starts[phase]
    return max(0.0, whole - starts[phase] - min(elapsed - began, length))
