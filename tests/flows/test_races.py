"""Two things at the same moment, and answers that got lost: made to happen at the worst instant."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.build_run import DEATHS, BuildRun
from imageflow.conductor import Conductor
from imageflow.control import Control
from imageflow.errors import Conflict, DatabaseUnavailable
from imageflow.model import Artifact, Build, BuildState, ResourceKind, Version, Wish
from imageflow.persistence import builds, ledger, steps, versions
from imageflow.persistence.database import Database
from imageflow.persistence.flowstore import TABLES
from imageflow.persistence.jobboard import SqlJobBoard
from imageflow.stores import ImageRef
from tests.small.site import Site

TINY = Path(__file__).parents[1] / "recipes" / "tiny.yaml"


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with Site(tmp_path, database=database_url) as site:
        yield site


def run_here(site: Site) -> None:
    """Be the worker, until nothing is queued."""
    Conductor(site.service).run(lambda: site.service.board.job_count == 0)


def just_after(
    monkeypatch: pytest.MonkeyPatch, cls: type, method: str, then: Callable[[], object], times: int = 1
) -> None:
    """Let something happen right after a method has returned."""
    work, left = getattr(cls, method), [times]

    @functools.wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = work(*args, **kwargs)
        if left[0] > 0:
            left[0] -= 1
            then()
        return result

    monkeypatch.setattr(cls, method, wrapped)


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
    just_after(monkeypatch, BuildRun, "_wish", lambda: getattr(site.service, wish)(build.id))
    run_here(site)
    run_here(site)
    assert site.service.build(build.id).state is Wish(wish).outcome
    site.nothing_left()


def test_a_build_that_was_paused_while_it_reverted_can_be_aborted_again(site: Site) -> None:
    site.trace.set("fail-boot")
    build = site.build()
    site.run_worker()
    with site.service.database.begin() as conn:  # as a bug in a revert leaves it
        assert builds.set_wish(conn, build.id, Wish.ABORT)
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


def test_a_step_that_kills_every_worker_pauses(site: Site) -> None:
    """One build must not end all the conductors there are, for ever."""
    site.trace.set("die-boot")
    build = site.build()
    site.run_worker(expect=-9)
    with site.service.database.begin() as conn:  # eight more workers
        for _ in range(DEATHS - 2):
            steps.begin(conn, build.id, "boot", position=1, started=time.time())
    site.run_worker(expect=-9)
    site.run_worker()
    paused = site.service.build(build.id)
    assert (paused.state, paused.step) == (BuildState.PAUSED, "boot")
    assert "10 workers" in (paused.error or "")
    assert site.states(build)[-1] == ("boot", DEATHS, "failed")
    site.trace.unset("die-boot")
    site.service.resume(build.id)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
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
        extend = SqlJobBoard.extend_all

        def hanging(*args: Any) -> Any:
            if hang.is_set():
                assert over.wait(60)
            return extend(*args)

        over = threading.Event()
        monkeypatch.setattr(SqlJobBoard, "extend_all", hanging)
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


# Secrets


@pytest.mark.parametrize("on_failure", ["pause", "revert"])
def test_a_secret_in_an_error_is_stored_nowhere(
    tmp_path: Path, on_failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "door").write_text("s3cret-door")
    with Site(tmp_path, secrets__directory=str(tmp_path / "secrets")) as site, caplog.at_level("DEBUG"):
        site.trace.set("shout-boot")
        build = site.build(on_failure=on_failure)
        run_here(site)
        assert "taskflow" in caplog.text and "s3cret" not in caplog.text
        assert site.service.build(build.id).error == "the key is ******"
        for file in site.config.state_dir.rglob("*"):
            if file.is_file():
                assert b"s3cret" not in file.read_bytes(), file


def test_a_worker_that_takes_over_knows_what_to_mask(tmp_path: Path) -> None:
    """What the steps of another worker left may hold secrets that this one has not used."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "door").write_text("s3cret-door")
    with Site(tmp_path, secrets__directory=str(tmp_path / "secrets")) as site:
        site.trace.set("fail-boot", "found s3cret-door in a file")
        build = site.build(dib={"environment": {"DOOR": {"secret": "door"}, "GONE": {"secret": "gone"}}})
        site.run_worker()
        assert site.service.build(build.id).error == "found ****** in a file"


# Versions


def stored(site: Site, build: Build, content: bytes) -> tuple[ImageRef, str]:
    """An image of a build in the store, and its name in the ledger."""
    import hashlib

    file = site.folder / "made.raw"
    file.write_bytes(content)
    artifact = Artifact("small.raw", "raw", len(content), hashlib.sha256(content).hexdigest())
    ref = site.service.store.add([(file, artifact)], build_id=build.id, control=Control())
    return ref, f"{ref.store}:{ref.digest}"


def a_version(site: Site, build: Build, ref: ImageRef) -> Version:
    version = Version(0, "small", build.id, build.key, ref.digest, time.time(), ref.store, ref.path, ref.artifacts)
    with site.service.database.begin() as conn:
        builds.change(conn, build.id, to=BuildState.SUCCEEDED, digest=ref.digest)
        conn.execute(sa.text("delete from jobs"))
        return versions.add(conn, version)


def test_bytes_that_only_a_dead_worker_published_are_removed(site: Site) -> None:
    """It died after it had stored them; who took over made others, and those became the version."""
    build = site.build()
    orphan, name = stored(site, build, b"the first try")
    good, good_name = stored(site, build, b"the second try")
    with site.service.database.begin() as conn:
        for row in (name, good_name):
            ledger.open(conn, build.id, ResourceKind.PUBLICATION, row, site.config.host, time.time())
    a_version(site, build, good)
    site.service.reap()
    assert site.service.store.find(orphan.digest) is None
    assert site.service.store.find(good.digest) is not None
    assert site.service.resources() == []


@pytest.mark.parametrize("sound", [True, False])
def test_a_version_that_is_deleted_while_it_is_verified_stays_deleted(
    site: Site, monkeypatch: pytest.MonkeyPatch, sound: bool
) -> None:
    build = site.build()
    ref, _ = stored(site, build, b"x" * 100)
    version = a_version(site, build, ref)
    if sound:  # found to be corrupt once, and mended since
        with site.service.database.begin() as conn:
            versions.mark(conn, version.id, "corrupt")
    else:
        Path(ref.path).chmod(0o600)
        Path(ref.path).write_bytes(b"y" * 100)
    deleted: list[bool] = []

    def delete(_: float) -> None:
        if not deleted:
            deleted.append(True)
            site.service.images.delete(ref.digest)

    try:
        site.service.images.verify(ref.digest, Control(), delete)
    except Exception as error:
        assert type(error).__name__ in ("NotFound", "Corrupt"), error
    assert deleted
    assert site.service.images.versions() == []
    with site.service.database.read() as conn:
        assert [v.state for v in versions.select(conn, everything=True)] == ["deleted"]


def test_a_build_has_succeeded_even_if_old_versions_can_not_be_removed(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for content in (b"old", b"kept"):  # what this flow makes is in no store
        before = site.build()
        a_version(site, before, stored(site, before, content)[0])
    aside = site.config.store_path / ".lock"
    aside.unlink()
    aside.mkdir()  # the store can't be locked, so nothing is deleted from it
    build = site.build(publish={"keep": 1})
    with caplog.at_level("WARNING"):
        run_here(site)
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
    words = site.service.log_path(build.id).read_text()
    assert "handed back" not in caplog.text and "bug" not in caplog.text
    assert "old versions" in words


# The disk


def test_a_log_that_can_not_be_opened_does_not_stop_a_build(site: Site) -> None:
    build = site.build()
    site.service.log_path(build.id).mkdir(parents=True)
    site.run_worker()
    assert site.service.build(build.id).state is BuildState.SUCCEEDED
