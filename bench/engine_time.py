"""Engine time per step: imageflow's conductor, engine, recorder and store against stock TaskFlow persistence."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from taskflow import engines, task
from taskflow.patterns import linear_flow
from taskflow.persistence import backends, models

from bench.measure import Result, Side, alternate
from bench.site import not_succeeded, open_site, run_all, submit, write_config
from imageflow import config
from imageflow.builds.conductor import Conductor
from imageflow.service import Service

STEPS = 50


class Nothing(task.Task):  # type: ignore[misc]
    """A stock TaskFlow task that does nothing."""

    def execute(self) -> int:
        return 1


def _stock(folder: Path) -> Any:
    """TaskFlow's own SQLAlchemy backend as its documentation sets it up."""
    backend = backends.fetch({"connection": f"sqlite:///{folder}/stock.db"})
    with contextlib.closing(backend.get_connection()) as connection:
        connection.upgrade()
    with backend.engine.connect() as conn:
        assert conn.execute(sa.text("PRAGMA synchronous")).scalar() == 2, "stock is not at synchronous=FULL"
    return backend


def _run_stock(backend: Any) -> float:
    """Milliseconds per step of a stock flow, without any conductor or step records."""
    flow = linear_flow.Flow("idle").add(*(Nothing(f"step-{number}") for number in range(STEPS)))
    began = time.perf_counter()
    book = models.LogBook("bench")
    detail = models.FlowDetail("idle", uuid=str(uuid.uuid4()))
    book.add(detail)
    with contextlib.closing(backend.get_connection()) as connection:
        connection.save_logbook(book)
    engines.load(flow, flow_detail=detail, book=book, backend=backend, engine="serial").run()
    return (time.perf_counter() - began) / STEPS * 1000


def per_step(rounds: int = 7) -> Result:
    """Milliseconds per step; ours includes the claim, the step records, the log and the build's end."""
    with tempfile.TemporaryDirectory(prefix="imageflow-bench-") as name:
        folder = Path(name)
        stock = _stock(folder)
        with open_site(folder / "ours", poll=0.05) as service:
            with service.database.read() as conn:
                assert conn.execute(sa.text("PRAGMA synchronous")).scalar() == 2, "ours is not at synchronous=FULL"
            made = []

            def ours() -> float:
                made.append(submit(service, [STEPS]))
                began = time.perf_counter()
                run_all(service)
                return (time.perf_counter() - began) / STEPS * 1000

            sides = (
                Side("imageflow, ms per step", ours),
                Side("stock TaskFlow, ms per step", lambda: _run_stock(stock)),
            )
            alternate(sides, rounds)
            wrong = not_succeeded(service, made)
    return Result(
        "engine time per step, SQLite FULL, against stock",
        sides[0].median,
        sides[1].median,
        "ms",
        0.25,
        failed="; ".join(wrong),
        notes=("ours includes claim, lease, step records, log and the end of the build; stock is the bare engine",),
    )


def at_once(rounds: int = 5, builds: int = 32, steps: int = 20) -> Result:
    """Steps per second of 32 builds at once against one after the other.

    A conductor is one Python process, and an engine's work is processor time: for many builds at once an
    operator starts a conductor per core, and so does this side. One conductor with all of them is measured
    and reported, too.
    """
    with tempfile.TemporaryDirectory(prefix="imageflow-bench-") as name:
        cores = os.cpu_count() or 1
        many, single, one = Path(name) / "many", Path(name) / "single", Path(name) / "one"
        files = {
            many: write_config(many, poll=0.05, max_builds=-(-builds // cores)),
            single: write_config(single, poll=0.05, max_builds=builds),
            one: write_config(one, poll=0.05),
        }
        services = {side: Service.open(config.load([str(file)])) for side, file in files.items()}
        wrong: list[str] = []

        def rate(side: Path, conductors: int, count: int) -> float:
            service = services[side]
            made = [submit(service, [steps]) for _ in range(count)]
            seconds = _conduct(files[side], conductors)
            wrong.extend(not_succeeded(service, made))
            return count * steps / seconds

        sides = (
            Side(f"{builds} builds at once, steps per second", lambda: rate(many, cores, builds)),
            Side("one at a time, steps per second", lambda: rate(one, 1, builds // 4)),
            Side(f"{builds} builds in one conductor, steps per second", lambda: rate(single, 1, builds)),
        )
        alternate(sides, rounds)
        for service in services.values():
            service.close()
    return Result(
        f"steps per second, {builds} builds at once against one",
        sides[0].median,
        sides[1].median,
        "1/s",
        1.3,
        at_least=True,
        failed="; ".join(wrong[:3]),
        notes=(
            f"at once: {cores} conductors with {-(-builds // cores)} builds each; one: one conductor with one build",
            f"one conductor with all {builds} builds: {sides[2].median:.4g} steps per second, "
            f"ratio {sides[2].median / sides[1].median:.3f}",
        ),
    )


def _conduct(file: Path, conductors: int) -> float:
    """Seconds that these conductors take, from a common start, until nothing is queued."""
    go = file.with_name("go")
    code = "import sys; from bench.engine_time import conduct; conduct(*sys.argv[1:])"
    children = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, file, go], stdout=subprocess.PIPE)
        for _ in range(conductors)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    go.touch()
    began = time.perf_counter()
    for child in children:
        if child.wait(600):
            raise AssertionError(f"a conductor ended with exit code {child.returncode}")
    seconds = time.perf_counter() - began
    go.unlink()
    return seconds


def conduct(file: str, go: str) -> None:
    """A conductor in its own process, which begins when the file `go` exists."""
    logging.getLogger("taskflow").setLevel(logging.CRITICAL)
    with Service.open(config.load([file])) as service:
        conductor = Conductor(service)
        print("ready", flush=True)
        while not Path(go).exists():
            time.sleep(0.005)
        conductor.run(until=lambda: service.board.job_count == 0)


def run() -> list[Result]:
    logging.getLogger("taskflow").setLevel(logging.CRITICAL)
    return [per_step(), at_once()]
