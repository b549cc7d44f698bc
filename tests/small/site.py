"""One imageflow site in a temporary folder: configuration, service, builds of the small flow, workers."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from imageflow import config
from imageflow.builds import engine
from imageflow.host import removal
from imageflow.model import Build, BuildState
from imageflow.persistence import builds, schema
from imageflow.persistence.database import Database
from imageflow.service import Service
from tests.small import preload
from tests.small.flow import Trace, small

_FORKS = multiprocessing.get_context("forkserver")  # a new worker costs a fork, not a second of imports
_FORKS.set_forkserver_preload(["tests.small.preload"])


class Worker:
    """A worker process, with the part of subprocess.Popen that tests need."""

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self._process = _FORKS.Process(target=preload.run, args=(module, arguments, str(log)), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = 60) -> int:
        """Wait for its exit code; fails when it does not end in time."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"worker {self.pid} still runs after {seconds} s"
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it is just ending by itself
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Site:
    """Use it as a context manager: afterwards every worker that it started is gone."""

    def __init__(self, folder: Path, database: str = "", lease: float = 2.0, host: str = "", **options: str) -> None:
        self.folder = folder
        self.trace = Trace(folder / "trace")
        self.file = folder / "imageflow.conf"
        lines = ["[DEFAULT]", f"state_dir = {folder / 'state'}", *([f"host = {host}"] if host else []), "[database]"]
        lines += [f"connection = {database}"] if database else []
        lines += ["[conductor]", f"lease = {lease}", "poll = 0.1", f"max_builds = {options.pop('max_builds', '2')}"]
        lines += [f"drain_timeout = {options.pop('drain_timeout', '10')}"]
        lines += ["[janitor]", f"interval = {options.pop('janitor', '1')}"]
        for name, value in options.items():
            group, _, option = name.partition("__")
            lines += [f"[{group}]", f"{option} = {value}"]
        self.file.write_text("\n".join(lines) + "\n")
        self.config = config.load([str(self.file)])
        self.workers: list[Worker] = []

    def __enter__(self) -> Site:
        with Database(self.config.database) as database:
            schema.upgrade(database)
        self.service = Service.open(self.config)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait()
        self.service.close()
        removal.remove_tree(self.config.builds_dir)  # what a failed test left attached or mounted

    def build(self, on_failure: str = "pause", **recipe: Any) -> Build:
        """Queue a build of the small flow."""
        return self.queued({"name": "small", "on_failure": on_failure, **recipe}, f"{small.__module__}.small")

    def queued(self, recipe: dict[str, Any], flow: str) -> Build:
        """Queue a build of one of the tests' flows, by its dotted name."""
        build = Build(
            id=secrets.token_hex(6),
            image=recipe["name"],
            method="small",
            state=BuildState.QUEUED,
            reason="a test",
            key=secrets.token_hex(32),
            flow=str(uuid.uuid4()),
            created=time.time(),
            recipe=recipe,
            folder=str(self.folder),
        )

        def enlist(conn: Any) -> None:
            assert builds.claim_or_holder(conn, build) is None
            engine.enlist(conn, self.service.flows, build, flow, [str(self.trace.folder)])
            self.service.board.post_in(conn, build.id, {})

        self.service.database.transact(enlist, patience=30)
        return build

    def worker(self, *arguments: str, module: str = "tests.small.worker") -> Worker:
        """Start a worker process."""
        worker = Worker(module, [str(self.file), *arguments], self.folder / "workers.log")
        self.workers.append(worker)
        return worker

    def run_worker(self, *arguments: str, expect: int = 0, seconds: float = 60) -> None:
        """Run a worker until nothing is queued, or until its expected death."""
        code = self.worker("idle", *arguments).wait(seconds)
        assert code == expect, f"exit code {code}: " + (self.folder / "workers.log").read_text()[-3000:]

    def await_state(self, build: Build, *states: BuildState, seconds: float = 60) -> Build:
        """Wait until the build is in one of the states."""
        return self.await_that(lambda: (b := self.service.build(build.id)).state in states and b, seconds)

    def await_that(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """Wait until the condition returns something true, and return that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                return value
            time.sleep(0.05)
        log = self.folder / "workers.log"
        raise AssertionError(
            f"did not happen in {seconds} s; workers: {log.read_text()[-3000:] if log.exists() else ''}"
        )

    def freeze(self, process: Worker | subprocess.Popen[str]) -> None:
        """Stop it with SIGSTOP, but not while it holds SQLite's only write lock: that would stop every writer."""

        def frozen() -> bool:
            process.send_signal(signal.SIGSTOP)
            self.await_that(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
            with contextlib.closing(sqlite3.connect(self.config.state_dir / "imageflow.db", timeout=0.5)) as database:
                try:
                    database.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    process.send_signal(signal.SIGCONT)
                    return False
            return True

        self.await_that(frozen)

    def states(self, build: Build) -> list[tuple[str, int, str]]:
        """(step, attempt, state) of every step record, in order."""
        return [(step.name, step.attempt, str(step.state)) for step in self.service.steps(build.id)]

    def nothing_left(self) -> None:
        """Check that no folder, open resource, job or process of any build is left."""
        assert [entry.name for entry in self.config.builds_dir.glob("*")] == []
        assert self.service.resources() == []
        assert self.service.board.job_count == 0
        for build in self.service.builds(limit=1000):
            assert list(self.children(build)) == []

    @staticmethod
    def children(build: Build) -> Iterator[int]:
        """The pids of the processes that work for a build."""
        marker = f"IMAGEFLOW_BUILD={build.id}".encode()
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if marker in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                    yield process.pid
