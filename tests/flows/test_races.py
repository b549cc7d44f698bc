"""Two things at the same moment, and answers that got lost: made to happen at the worst instant."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.builds import transitions
from imageflow.builds.conductor import Conductor
from imageflow.errors import Conflict, DatabaseUnavailable
from imageflow.model import ENDED, Build, BuildState, StepState, Wish
from imageflow.persistence import builds
from imageflow.persistence.database import Database
from imageflow.persistence.flowstore import TABLES
from imageflow.persistence.jobboard import SqlJobBoard
from tests.small.site import Site

TINY = Path(__file__).parents[1] / "recipes" / "tiny.yaml"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with Site(tmp_path, database=database_url) as site:
        yield site


def run_here(site: Site) -> None:
    """Be the worker, until nothing is queued."""
    Conductor(site.service).run(lambda: site.service.board.job_count == 0)


def just_after_a_failure(monkeypatch: pytest.MonkeyPatch, site: Site, build: Build, then: Callable[[], object]) -> None:
    """Let something happen when a step has failed, and the build's thread has just read what people wish."""
    read, done = builds.wishes, []

    @functools.wraps(read)
    def wishes(conn: sa.Connection, ids: Sequence[str]) -> Any:
        found = read(conn, ids)
        failed = any(step.state is StepState.FAILED for step in site.service.steps(build.id))
        if failed and not done and threading.current_thread().name.startswith("build"):
            done.append(found)
            then()
        return found

    monkeypatch.setattr(builds, "wishes", wishes)


def lose_an_answer(monkeypatch: pytest.MonkeyPatch, database: Database) -> None:
    """The next write transaction is committed, but who wrote it hears that the database is away."""
    begin, lost = database.begin, []

    @functools.wraps(begin)
    def losing() -> Any:
        import contextlib

        @contextlib.contextmanager
        def transaction() -> Iterator[sa.Connection]:
            with begin() as conn:
                yield conn
            if not lost:
                lost.append(True)
                raise DatabaseUnavailable("the answer got lost")

        return transaction()

    monkeypatch.setattr(database, "begin", losing)


# Wishes


@pytest.mark.parametrize("wish", ["cancel", "abort"])
def test_a_wish_in_the_moment_of_a_failure_is_carried_out(
    site: Site, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    site.trace.set("fail-boot")
    build = site.build()
    just_after_a_failure(monkeypatch, site, build, lambda: getattr(site.service, wish)(build.id))
    run_here(site)
    run_here(site)
    assert site.service.build(build.id).state is Wish(wish).outcome
    site.nothing_left()


def test_the_first_wish_stays(site: Site) -> None:
    build = site.build()
    with site.service.database.begin() as conn:
        builds.change(conn, build.id, to=BuildState.RUNNING, started=time.time())
    assert site.service.cancel(build.id).wish is Wish.CANCEL
    assert site.service.abort(build.id).wish is Wish.CANCEL
    assert site.service.build(build.id).wish is Wish.CANCEL


def test_a_build_that_was_paused_while_it_reverted_can_be_aborted_again(site: Site) -> None:
    site.trace.set("fail-boot")
    build = site.build()
    site.run_worker()
    with site.service.database.begin() as conn:  # as a bug in a revert leaves it
        assert builds.change(conn, build.id, wish=Wish.ABORT)
    assert site.service.abort(build.id).state is BuildState.REVERTING
    assert site.service.abort(build.id).state is BuildState.REVERTING
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.ABORTED
    site.nothing_left()


def test_a_build_whose_flow_is_not_there_any_more_can_be_aborted(site: Site) -> None:
    """Its package was removed, or a row is damaged: the ledger knows what it made."""
    site.trace.set("fail-configure")
    build = site.build()
    site.run_worker()
    with site.service.database.begin() as conn:
        conn.execute(sa.update(TABLES.flowdetails).values(meta={"factory": {"name": "no.such.factory", "args": []}}))
    site.service.abort(build.id)
    site.run_worker()
    ended = site.service.build(build.id)
    assert ended.state is BuildState.ABORTED
    assert "left for the janitor" in (ended.error or "")
    site.service.reap()
    site.nothing_left()


def test_a_build_that_is_taken_in_the_moment_it_is_superseded_goes_on(site: Site) -> None:
    """Its conductor was slow, its lease had run out, and it was seen to be queued a moment ago."""
    old, new = site.build(), site.build()
    with site.service.database.begin() as conn:
        assert builds.change(conn, old.id, to=BuildState.RUNNING)
    with pytest.raises(DatabaseUnavailable, match="is running"), site.service.database.begin() as conn:
        transitions.supersede(conn, site.service, old, new)
    run_here(site)
    assert {site.service.build(each.id).state for each in (old, new)} == {BuildState.SUCCEEDED}
    site.nothing_left()


@pytest.mark.parametrize("state", sorted(ENDED))
def test_nothing_moves_a_build_that_has_ended(site: Site, state: BuildState) -> None:
    build = site.build()
    with site.service.database.begin() as conn:
        assert builds.change(conn, build.id, to=state)
    for ask in (site.service.resume, site.service.abort, site.service.cancel):
        with pytest.raises(Conflict, match=str(state)):
            ask(build.id)
    with pytest.raises(DatabaseUnavailable), site.service.database.begin() as conn:
        transitions.begin_revert(conn, build.id)
    with site.service.database.begin() as conn:
        assert not transitions.give_up(conn, site.service, build.id)
        assert not transitions.pause(conn, site.service, build.id, unwished=False, error="x")
    run_here(site)  # its job is consumed, and nothing is run
    after = site.service.build(build.id)
    assert (after.state, after.wish, after.started) == (state, None, None)
    site.nothing_left()


def test_what_a_failed_step_left_is_reverted_when_its_resume_is_cancelled(site: Site) -> None:
    site.trace.set("fail-configure")
    build = site.build()
    site.run_worker()
    site.service.resume(build.id)
    site.service.cancel(build.id)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.CANCELLED
    assert site.trace.reverted(build.id) == ["configure", "boot", "fetch"]
    assert [state for _step, _attempt, state in site.states(build)] == ["reverted"] * 3
    site.nothing_left()


# Answers that got lost


@pytest.mark.parametrize("force", [False, True])
def test_a_request_whose_answer_got_lost_is_one_build(site: Site, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    lose_an_answer(monkeypatch, site.service.database)
    [answer] = site.service.submit(TINY, force=force)
    assert answer.verdict == "created"
    assert [build.id for build in site.service.builds()] == [answer.build.id]
    assert site.service.board.job_count == 1


def test_resume_and_abort_whose_answers_got_lost(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.trace.set("fail-boot")
    paused, queued = site.build(), site.build()
    site.run_worker()
    fresh = site.build()
    with monkeypatch.context() as patch:
        lose_an_answer(patch, site.service.database)
        assert site.service.resume(paused.id).state is BuildState.QUEUED
    with monkeypatch.context() as patch:
        lose_an_answer(patch, site.service.database)
        assert site.service.abort(queued.id).state is BuildState.REVERTING
    with monkeypatch.context() as patch:
        lose_an_answer(patch, site.service.database)
        assert site.service.cancel(fresh.id).state is BuildState.CANCELLED
    with pytest.raises(Conflict):
        site.service.resume(paused.id)
    with pytest.raises(Conflict):
        site.service.cancel(fresh.id)


# Time


def test_a_step_ends_with_the_lease_even_if_the_database_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The heartbeat waits for an answer that does not come; others may take the build over all the same."""
    with Site(tmp_path) as site:
        site.trace.set("slow-boot", "60")
        build = site.build()
        hang = threading.Event()
        extend = SqlJobBoard.extend_in

        def hanging(*args: Any) -> Any:
            if hang.is_set():
                assert over.wait(60)
            return extend(*args)

        over = threading.Event()
        monkeypatch.setattr(SqlJobBoard, "extend_in", hanging)
        conductor = Conductor(site.service)
        thread = threading.Thread(target=conductor.run)
        thread.start()
        try:
            made = site.config.builds_dir / f"{build.id}-boot" / "pids"
            site.await_that(made.exists)
            hang.set()
            began = time.monotonic()
            site.await_that(lambda: list(site.children(build)) == [], seconds=20)
            assert time.monotonic() - began < site.config.conductor.lease + 2
            assert ("boot", 1, "failed") not in site.states(build)
        finally:
            site.trace.set("slow-boot", "0.1")
            over.set()
            conductor.stop()
            thread.join(60)
        site.run_worker()
        assert site.service.build(build.id).state is BuildState.SUCCEEDED
        site.nothing_left()


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_time_without_a_worker_is_not_the_builds(site: Site, how: str) -> None:
    """A machine that was off over night must not find its builds too late for everything."""
    site.trace.set(*{"killed": ("die-boot",), "stopped": ("slow-boot", "1")}[how])
    build = site.build(timeout={"build": 60})
    worker = site.worker()
    site.await_that(lambda: "boot" in site.trace.executed(build.id))
    worker.terminate()
    assert worker.wait() == {"killed": -9, "stopped": 0}[how]
    site.trace.set("slow-boot", "0.1")
    (site.trace.folder / "die-boot").unlink(missing_ok=True)
    before = site.service.build(build.id).deadline
    with site.service.database.begin() as conn:  # the lease ran out an hour ago, and the build was due soon after
        conn.execute(sa.text("update jobs set until = until - 3600"))
        builds.change(conn, build.id, deadline=(before or 0) - 3600)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
