"""Processes that do the same thing at the same instant; they import this module again, so it is a separate one."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from imageflow.model import Build, BuildState, DeliveryState
from imageflow.persistence import builds, outbox, publications, schema
from imageflow.persistence.database import Database

T = TypeVar("T")

_gate: Any = None  # where all of them wait for each other


def _enter(gate: Any) -> None:
    global _gate
    _gate = gate


def at_once(work: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
    """Call `work`, a function of this module, with each of the arguments, each in a new process of its own."""
    spawn = multiprocessing.get_context("spawn")
    gate = spawn.Barrier(len(arguments))
    with ProcessPoolExecutor(len(arguments), spawn, initializer=_enter, initargs=(gate,)) as pool:
        return [future.result(120) for future in [pool.submit(work, *args) for args in arguments]]


def upgrade(url: str) -> None:
    """Bring the schema up."""
    with Database(url) as db:
        _gate.wait(60)
        schema.upgrade(db)


def claim_keys(url: str, me: int, keys: Sequence[str]) -> list[tuple[str, str | None]]:
    """Ask for a build of each key; -> (the id of the offered build, the id of the build that has the key)."""
    answers = []
    with Database(url) as db:
        for number, key in enumerate(keys):
            build = Build(
                id=f"{me:x}{number:011x}",
                image="web",
                method="dib",
                state=BuildState.QUEUED,
                reason="",
                key=key,
                flow="f",
                created=1.0,
            )
            _gate.wait(60)
            holder = db.transact(lambda conn, build=build: builds.claim_or_holder(conn, build))  # type: ignore[misc]
            answers.append((build.id, holder.id if holder else None))
    return answers


def claim_jobs(url: str, me: int) -> list[str]:
    """Claim every job; -> the names of the jobs that this process got."""
    from taskflow import exceptions

    from imageflow.persistence.jobboard import SqlJobBoard

    won = []
    with Database(url) as db:
        board = SqlJobBoard("imageflow", {}, database=db)
        _gate.wait(60)
        while (jobs := list(board.iterjobs(only_unclaimed=True))) != []:
            for job in jobs:
                try:
                    board.claim(job, f"w{me}")
                except exceptions.UnclaimableJob:
                    continue
                won.append(job.name)
    return won


def send_all(url: str, me: int) -> list[tuple[float, str, str, str]]:
    """Take announcements and mark them as sent until none waits; -> (when, build, id, type) of each."""
    done = []
    with Database(url) as db:
        _gate.wait(60)
        while True:
            found = db.transact(lambda conn: outbox.take(conn, "http", f"w{me}", 60.0))
            if found is not None:
                one = found.announcement
                done.append((time.time(), one.build_id, one.id, one.type))
                db.transact(lambda conn, found=found: outbox.sent(conn, found, f"w{me}"))  # type: ignore[misc]
                continue
            with db.read() as conn:
                if not outbox.select(conn, states=[DeliveryState.WAITING], limit=1):
                    return done


def publish_all(url: str, me: int) -> list[tuple[int, str]]:
    """Take publications and mark them as stored until none waits; -> (version, target) of each."""
    done = []
    with Database(url) as db:
        _gate.wait(60)
        for target in ("dr", "prod"):
            while one := db.transact(lambda conn, t=target: publications.take(conn, t, f"w{me}", 60.0)):  # type: ignore[misc]
                assert db.transact(lambda conn, one=one: publications.stored(conn, one, f"w{me}", "p"))  # type: ignore[misc]
                done.append((one.version_id, one.target))
    return done
