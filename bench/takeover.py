"""Takeover: the time from kill -9 of a worker during a step until another worker runs that step again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Result
from bench.site import open_site, submit, write_config
from imageflow.model import BuildState, StepState
from imageflow.service import Service

STEP = 60.0  # seconds that the interrupted step would take: far longer than a lease
WITHIN = 15.0  # seconds that a takeover may take with the default configuration


@contextlib.contextmanager
def _worker(file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves, as `imageflow serve` does."""
    code = "import sys; from bench.takeover import serve; serve(sys.argv[1])"
    worker = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(file)], env=dict(os.environ))
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def serve(file: str) -> None:
    """The body of a worker process."""
    from imageflow import config
    from imageflow.builds.conductor import Conductor

    with Service.open(config.load([file])) as service:
        Conductor(service).run()


def _once(service: Service, file: Path, lease: float) -> float:
    """Seconds from the kill to the second attempt of the step; the first worker dies at a random moment of its lease."""
    build = submit(service, [2, STEP])
    with _worker(file) as first:
        _await_attempt(service, build.id, 1, 60)
        with _worker(file):
            while len(service.conductors()) < 2:
                time.sleep(0.05)
            time.sleep(random.uniform(0, lease))  # anywhere between two renewals
            holder = next(c for c in service.conductors() if c.name == service.build(build.id).conductor)
            assert holder.pid == first.pid
            first.send_signal(signal.SIGKILL)
            killed = time.time()
            again = _await_attempt(service, build.id, 2, lease * 3 + 30)
            service.cancel(build.id)
            while not service.build(build.id).state.ended:
                time.sleep(0.05)
    assert service.build(build.id).state is BuildState.CANCELLED
    return again - killed


def _await_attempt(service: Service, build_id: str, attempt: int, seconds: float) -> float:
    """Wait for this attempt of the first step; -> when it began."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for step in service.steps(build_id):
            if step.attempt == attempt and step.state is StepState.RUNNING and step.started is not None:
                return step.started
        time.sleep(0.02)
    raise AssertionError(f"attempt {attempt} did not begin within {seconds} s")


def run(lease: float = 12.0, rounds: int = 8) -> list[Result]:
    """The slowest of several takeovers, with the default lease."""
    with tempfile.TemporaryDirectory(prefix="imageflow-bench-") as name:
        values = []
        with open_site(Path(name), lease=lease) as service:
            file = write_config(Path(name), lease=lease)
            for _ in range(rounds):
                values.append(_once(service, file, lease))
                print(f"  {'seconds from kill to the step running again':<44} {values[-1]:10.4g}", flush=True)
    return [
        Result(
            f"takeover after kill -9 with a lease of {lease:g} s, slowest of {rounds}",
            max(values),
            WITHIN,
            "s",
            1.0,
            notes=(f"other: what is promised; all: {', '.join(f'{value:.2f}' for value in sorted(values))}",),
        )
    ]
