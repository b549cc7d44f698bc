"""A separate imageflow for a measurement: state folder, configuration, builds of flows that do nothing."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from taskflow.patterns import linear_flow

from imageflow import config
from imageflow.builds import engine
from imageflow.builds.conductor import Conductor
from imageflow.model import Build, BuildState
from imageflow.persistence import builds, steps
from imageflow.service import Service
from imageflow.tasks.base import Task

DIGEST = "0" * 64


class Idle(Task):
    """A step that does nothing, or sleeps."""

    def __init__(self, step: str, seconds: float = 0.0) -> None:
        self.step = step  # type: ignore[misc]
        super().__init__()
        self._seconds = seconds

    def execute(self, control: Any) -> int:
        if self._seconds:
            control.wait(self._seconds)
        return 1


class Last(Idle):
    """The last step: returns a fake publication."""

    default_provides = "publication"

    def execute(self, build: Any) -> dict[str, Any]:  # type: ignore[override]
        return {"store": "none", "digest": f"{build.id}{'0' * 52}", "path": "nowhere", "artifacts": []}


def idle(count: int, seconds: float = 0.0) -> linear_flow.Flow:
    """`count` steps one after the other, the first of which takes `seconds`."""
    tasks = [Idle(f"step-{number}", seconds if number == 0 else 0.0) for number in range(count - 1)]
    return linear_flow.Flow("idle").add(*tasks, Last("last"))


def write_config(folder: Path, *, lease: float = 12.0, poll: float = 1.0, max_builds: int = 1) -> Path:
    """-> the configuration file of a site in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "imageflow.conf"
    lines = ["[DEFAULT]", f"state_dir = {folder / 'state'}", "[conductor]"]
    lines += [f"lease = {lease}", f"poll = {poll}", f"max_builds = {max_builds}"]
    file.write_text("\n".join(lines) + "\n")
    return file


def open_site(folder: Path, **options: Any) -> Service:
    """A service over an embedded database in `folder`."""
    return Service.open(config.load([str(write_config(folder, **options))]))


def submit(
    service: Service, arguments: Sequence[Any], image: str = "bench", factory: str = f"{idle.__module__}.idle"
) -> Build:
    """Queue a build as a request does: look for the same inputs, store flow and job in one transaction."""

    def enlist(conn: Connection) -> Build:
        before = builds.latest(conn, image)
        steps.history(conn, image)  # as the estimate of the time left does
        build = Build(
            id=secrets.token_hex(6),
            image=image,
            method="idle",
            state=BuildState.QUEUED,
            reason=f"measured after {before.id if before else 'nothing'}",
            key=secrets.token_hex(32),
            flow=str(uuid.uuid4()),
            created=time.time(),
            recipe={"name": image, "on_failure": "revert", "publish": {"keep": 3}},
            folder="/",
        )
        if builds.claim_or_holder(conn, build) is not None:
            raise AssertionError("a random key is taken")
        engine.enlist(conn, service.flows, build, factory, arguments)
        service.board.post_in(conn, build.id, {})
        return build

    return service.database.transact(enlist)


def run_all(service: Service) -> None:
    """Run a conductor in this thread until nothing is queued, and check that every build succeeded."""
    Conductor(service).run(until=lambda: service.board.job_count == 0)


def not_succeeded(service: Service, wanted: Sequence[Build]) -> list[str]:
    """Problems with these builds; [] when each succeeded and ran each of its steps once."""
    wrong = []
    with service.database.read() as conn:
        for build in wanted:
            now = builds.get(conn, build.id)
            if now.state is not BuildState.SUCCEEDED:
                wrong.append(f"build {now.id} is {now.state}: {now.error}")
            if any(step.attempt != 1 for step in steps.of(conn, build.id)):
                wrong.append(f"build {now.id} ran a step twice")
    return wrong
