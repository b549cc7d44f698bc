"""Events: how soon one runs its first step, how many a second are durable, and what many recipes cost."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import requests
import sqlalchemy as sa

from bench.measure import Result, Side, alternate
from bench.site import open_site, write_config
from imageflow import config
from imageflow.events import door, triggers
from imageflow.events.inbox import SqlInbox
from imageflow.model import Event, StepState
from imageflow.persistence import schema, tables
from imageflow.persistence.database import Database
from imageflow.rebuilds.matching import match_waiting
from imageflow.service import Service
from tests.servers.services import PostgreSQL, running

ROOT = Path(__file__).parents[1]
PUSH = Event("https://git.example/acme/infra", "1", "git.push", data={"repository": "infra", "ref": "refs/heads/main"})
EVENTS = 40  # of the latency


# -- from an event to its first step --------------------------------------------------------------


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[tuple[str, Service]]:
    """A real `imageflow serve` in its own process; -> its address, and a service over the same database."""
    file = write_config(folder, poll=0.25, max_builds=2)
    options = (
        f"[triggers]\ndebounce = 0\nmax_per_minute = 10000\n[dib]\nelements_path = {ROOT}/tests/recipes/elements\n"
    )
    file.write_text(file.read_text() + options + "[api]\nrate = 100000/minute\n")
    images = "".join(
        f"  - name: i{n}\n    method: dib\n    dib: {{elements: [tiny], skip-base: true}}\n"
        f"    on: [{{event: git.push, where: {{repository: r{n}}}}}]\n"
        for n in range(EVENTS + 1)
    )
    (folder / "recipe.yaml").write_text(f"images:\n{images}")
    with Service.open(config.load([str(file)])) as service:
        service.recipes.add(folder / "recipe.yaml")
        log = (folder / "serve.log").open("w")
        argv = [sys.executable, "-m", "imageflow.cli", "--config-file", str(file), "serve", "--listen", "127.0.0.1:0"]
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            yield address_of(folder / "serve.log"), service
        finally:
            process.terminate()
            process.wait(60)
            log.close()


def address_of(log: Path) -> str:
    """Where a server that writes this log listens."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for line in log.read_text().splitlines():
            if "listener http: " in line:
                return line.rpartition("listener http: ")[2].strip()
        time.sleep(0.05)
    raise AssertionError(f"serve did not start: {log.read_text()[-2000:]}")


def latency() -> list[Result]:
    """Seconds from sending an event over HTTP until its build's first step runs, embedded database."""
    taken = []
    with tempfile.TemporaryDirectory() as name, _serving(Path(name)) as (address, service):
        for number in range(EVENTS + 1):
            sent = time.time()
            body = {
                "specversion": "1.0",
                "id": f"bench-{number}",
                "source": "/bench",
                "type": "git.push",
                "data": {"repository": f"r{number}"},
            }
            answer = requests.post(
                f"{address}/v1/events",
                data=json.dumps(body),
                headers={
                    "content-type": "application/cloudevents+json",
                    "authorization": f"Bearer {door.token(service.config)}",
                },
                timeout=30,
            )
            assert answer.status_code == 202, answer.text
            build_id, began = _first_step(service, f"i{number}")
            if number:  # the first one loads what the others use
                taken.append(began - sent)
            service.cancel(build_id)
            while not service.build(build_id).state.ended:
                time.sleep(0.05)
    taken.sort()
    worst = taken[min(len(taken) - 1, round(len(taken) * 0.99))]
    note = f"{len(taken)} events, one after the other: {taken[0]:.3f} … {taken[-1]:.3f} s"
    return [
        Result("event to first step, p50 (goal in seconds)", statistics.median(taken), 1.0, "s", 0.3, notes=(note,)),
        Result("event to first step, p99 (goal in seconds)", worst, 1.0, "s", 1.0),
    ]


def _first_step(service: Service, image: str) -> tuple[str, float]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for build in service.builds(image=image):
            for step in service.steps(build.id):
                if step.state is not StepState.PENDING and step.started is not None:
                    return build.id, step.started
        time.sleep(0.01)
    raise AssertionError(f"no build of {image} began")


# -- durable events a second ------------------------------------------------------------------------


def throughput() -> list[Result]:
    """Events per second received, committed and answered, with sixteen senders at once."""
    results = []
    with tempfile.TemporaryDirectory() as name, running(PostgreSQL) as server, server.database() as url:
        for title, where in (("SQLite", f"sqlite:///{name}/inbox.db"), ("PostgreSQL", url)):
            with Database(where) as database:
                schema.upgrade(database)
                rate, single = _rate(database, senders=16), _rate(database, senders=1)
                note = f"one sender alone: {single:.0f} a second"
                results.append(
                    Result(f"durable events a second, {title}", rate, 1.0, "1/s", 500, at_least=True, notes=(note,))
                )
    return results


def _rate(database: Database, senders: int, seconds: float = 5.0) -> float:
    inbox, run = SqlInbox(database), f"{senders}-{time.time()}"
    start, end = threading.Barrier(senders), [0.0]

    def send(sender: int) -> int:
        start.wait()
        end[0] = end[0] or time.monotonic() + seconds
        number = 0
        while time.monotonic() < end[0]:
            [receipt] = inbox.receive([replace(PUSH, id=f"{run}-{sender}-{number}")], listener="http")
            assert receipt.new
            number += 1
        return number

    with ThreadPoolExecutor(senders) as pool:
        return sum(pool.map(send, range(senders))) / seconds


# -- many recipes -----------------------------------------------------------------------------------


def _fill(service: Service, recipes: int, stored: int) -> None:
    """Fill the database as if so many recipes were registered and so many events had come."""
    with service.database.begin() as conn:
        for first in range(0, recipes, 1000):
            numbers = range(first, min(first + 1000, recipes))
            images = [{"name": f"image-{n}", "method": "dib", "on": [_on(n)]} for n in numbers]
            rows = [
                {"name": f"recipe-{n}", "version": 1, "digest": "0" * 64, "path": "/r.yaml", "created": 0.0}
                | {"images": [image], "current": True, "id": n + 1}
                for n, image in zip(numbers, images, strict=True)
            ]
            conn.execute(sa.insert(tables.recipes), rows)
            held = [
                {"image": f"image-{n}", "recipe_id": n + 1, "position": 0, "published": f"image-{n}"} for n in numbers
            ]
            conn.execute(sa.insert(tables.recipe_images), held)
            rules = [(rule, triggers.probe(rule)) for image in images for rule in triggers.triggers_of(image)]
            names = ("image", "position", "kind", "type", "where", "given")
            conn.execute(
                sa.insert(tables.triggers),
                [{name: getattr(rule, name) for name in names} | {"probe": probe} for rule, probe in rules],
            )
        for first in range(0, stored, 5000):
            numbers = range(first, min(first + 5000, stored))
            conn.execute(sa.insert(tables.events), [_stored(n) for n in numbers])


def _on(number: int) -> dict[str, object]:
    return {"event": "git.push", "where": {"repository": f"repository-{number}", "ref": {"glob": "refs/heads/*"}}}


def _stored(number: int) -> dict[str, object]:
    return {
        "digest": f"{number:064x}",
        "source": "https://git.example",
        "id": str(number),
        "type": "git.push",
        "data": {"repository": f"repository-{number}"},
        "listener": "http",
        "received": float(number),
        "deliveries": 1,
        "verdict": "matched" if number % 2 else "no trigger",
    }


def matching() -> Result:
    """Milliseconds to match one more event, with 10,000 recipes and 100,000 events stored, against 100 and 100."""
    with tempfile.TemporaryDirectory() as name:
        few = open_site(Path(name) / "few")
        many = open_site(Path(name) / "many")
        with few, many:
            _fill(few, 100, 100)
            _fill(many, 10_000, 100_000)
            sides = [Side("100 recipes", lambda: _match_some(few)), Side("10,000 recipes", lambda: _match_some(many))]
            alternate(sides, rounds=5)
    return Result(
        "matching, 10,000 recipes against 100", sides[1].median, sides[0].median, "ms/event", 3.0, spread=str(sides[1])
    )


def _match_some(service: Service, count: int = 50) -> float:
    """Milliseconds for each of `count` events."""
    inbox, run = SqlInbox(service.database), str(time.time())
    total = 0.0
    for number in range(count):
        data = {"repository": f"repository-{number}", "ref": "refs/heads/main", "branch": "main"}
        inbox.receive([replace(PUSH, id=f"{run}-{number}", data=data)], listener="http")
        began = time.perf_counter()
        assert match_waiting(service.database) == 1
        total += time.perf_counter() - began
    return total / count * 1000


def run() -> list[Result]:
    """All of them."""
    return [*latency(), *throughput(), matching()]
