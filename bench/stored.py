"""Engine time per build when the database holds the records of 100,000 builds, against 100."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.measure import Result, Side, alternate
from bench.site import not_succeeded, open_site, run_all, submit
from imageflow.model import BuildState, StepState
from imageflow.persistence import tables
from imageflow.service import Service

IMAGES = 50
STEPS = 6
_ENDS = (BuildState.SUCCEEDED,) * 7 + (BuildState.FAILED, BuildState.ABORTED, BuildState.CANCELLED)


def fill(service: Service, count: int) -> None:
    """Store the records of `count` ended builds: build, steps, version, closed resources; one in 1,000 is paused."""
    batch = 5000
    for first in range(0, count, batch):
        numbers = range(first, min(first + batch, count))
        with service.database.begin() as conn:
            conn.execute(sa.insert(tables.builds), [_build(number) for number in numbers])
            conn.execute(sa.insert(tables.steps), [row for number in numbers for row in _steps(number)])
            made = [_version(n, count) for n in numbers if _state(n) is BuildState.SUCCEEDED]
            conn.execute(sa.insert(tables.versions), made)
            conn.execute(sa.insert(tables.resources), [row for number in numbers for row in _resources(number)])
    with service.database.begin() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(tables.builds)).scalar() == count


def _hex(number: int, what: str, digits: int = 64) -> str:
    return hashlib.sha256(f"{what} {number}".encode()).hexdigest()[:digits]


def _state(number: int) -> BuildState:
    return BuildState.PAUSED if number % 1000 == 999 else _ENDS[number % len(_ENDS)]


def _build(number: int) -> dict[str, Any]:
    state = _state(number)
    created = time.time() - 1e6 + number
    return {
        "id": _hex(number, "id", 12),
        "image": f"image-{number % IMAGES}" if number % 7 else "bench",
        "method": "dib",
        "state": state.value,
        "key": _hex(number, "key"),
        "claim": _hex(number, "key") if state in (BuildState.SUCCEEDED, BuildState.PAUSED) else None,
        "forced": False,
        "reason": "element:debian-minimal changed",
        "recipe": {"name": "bench", "method": "dib", "dib": {"elements": ["vm"] * 60, "environment": {"A": "b" * 300}}},
        "folder": "/srv/recipes",
        "pins": {f"element:{index}": _hex(index, "pin") for index in range(25)},
        "flow": _hex(number, "flow", 36),
        "created": created,
        "started": created,
        "ended": None if state is BuildState.PAUSED else created + 60,
        "paused": time.time() if state is BuildState.PAUSED else None,
        "conductor": "host:1:abcdef",
        "host": "elsewhere",
        "digest": _hex(number, "digest") if state is BuildState.SUCCEEDED else None,
        "step": None,
    }


def _steps(number: int) -> Iterator[dict[str, Any]]:
    for position in range(STEPS):
        yield {
            "build_id": _hex(number, "id", 12),
            "name": f"step-{position}",
            "attempt": 1,
            "position": position,
            "state": StepState.SUCCEEDED.value,
            "progress": 1.0,
            "started": 1.0 * position,
            "ended": 1.0 * position + 1,
            "conductor": "host:1:abcdef",
            "phases": [["pre-install", 0.5], ["install", 0.7]],
        }


def _version(number: int, count: int) -> dict[str, Any]:
    build = _build(number)
    return {
        "image": build["image"],
        "build_id": build["id"],
        "key": build["key"],
        "digest": build["digest"],
        "created": build["ended"],
        "store": "directory",
        "path": f"/var/lib/imageflow/images/{build['digest']}/web.qcow2",
        "artifacts": [
            {"name": "web.qcow2", "format": "qcow2", "size": 1, "digest": build["digest"], "virtual_size": 1}
        ],
        "properties": {},
        "packages": 279,
        "state": "stored" if number >= count - 5 * IMAGES else "deleted",  # as with keep: 3
    }


def _resources(number: int) -> Iterator[dict[str, Any]]:
    for name in ("/var/lib/imageflow/builds/1", "/var/lib/imageflow/builds/1/mnt"):
        yield {
            "build_id": _hex(number, "id", 12),
            "kind": "directory",
            "name": name,
            "host": "elsewhere",
            "opened": 1.0,
            "closed": None if number % 1000 == 999 else 2.0,
        }


def run(many: int = 100_000, few: int = 100, rounds: int = 9, builds: int = 5, steps: int = 10) -> list[Result]:
    """Milliseconds from a build's request to its end, including the conductor's and the janitor's queries."""
    logging.getLogger("taskflow").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="imageflow-bench-") as name:
        sides = []
        wrong: list[str] = []
        services = []
        for count in (many, few):
            service = open_site(Path(name) / str(count), poll=0.05)
            began = time.perf_counter()
            fill(service, count)
            size = service.database.path.stat().st_size >> 20 if service.database.path else 0
            print(f"  {count} builds stored in {time.perf_counter() - began:.0f} s, {size} MiB", flush=True)
            services.append(service)

            def per_build(service: Service = service) -> float:
                began = time.perf_counter()
                made = [submit(service, [steps]) for _ in range(builds)]
                run_all(service)
                seconds = time.perf_counter() - began
                wrong.extend(not_succeeded(service, made))
                return seconds / builds * 1000

            sides.append(Side(f"with {count} builds stored, ms per build", per_build))
        alternate(sides, rounds)
        for service in services:
            service.close()
    return [
        Result(
            f"engine time per build of {steps} steps, {many:,} stored builds against {few}",
            sides[0].median,
            sides[1].median,
            "ms",
            1.3,
            failed="; ".join(wrong[:3]),
            notes=("from the request to the end, the queries of conductor and janitor included",),
        )
    ]
