"""The jobboard: leases, fences, TaskFlow's interface; on all three databases."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from taskflow import exceptions, states
from taskflow.jobs import backends
from taskflow.persistence import models

from imageflow.errors import ClaimLost, Conflict, ImageflowError
from imageflow.persistence import tables
from imageflow.persistence.database import Database
from imageflow.persistence.jobboard import SqlJob, SqlJobBoard
from tests.small.racers import at_once, claim_jobs


@pytest.fixture
def board(database: Database) -> Iterator[SqlJobBoard]:
    """An empty board."""
    found = SqlJobBoard("imageflow", {"lease": 60.0}, database=database)
    found.connect()
    yield found
    found.close()


def first(board: SqlJobBoard, only_unclaimed: bool = True) -> SqlJob:
    job: SqlJob = next(board.iterjobs(only_unclaimed=only_unclaimed))
    return job


def expire(board: SqlJobBoard, job: SqlJob) -> None:
    """The lease is over: as if its time had passed."""
    with board.db.begin() as conn:
        conn.execute(sa.update(tables.jobs).where(tables.jobs.c.uuid == job.uuid).values(until=board.db.now() - 1))


def extend_all(board: SqlJobBoard, held: list[SqlJob], seconds: float) -> list[SqlJob]:
    return board.db.transact(lambda conn: board.extend_in(conn, held, seconds))


def proves(board: SqlJobBoard, job: SqlJob) -> bool:
    with contextlib.suppress(ClaimLost), board.db.begin() as conn:
        board.prove(conn, job)
        return True
    return False


def test_only_one_holds_a_job(board: SqlJobBoard) -> None:
    board.post("b1", details={"x": 1})
    mine, theirs = first(board), first(board)
    assert mine.state == states.UNCLAIMED and board.find_owner(mine) is None
    board.claim(mine, "w1")
    for who in ("w2", "w1"):  # not even under the same name: names are a process's own
        with pytest.raises(exceptions.UnclaimableJob, match="w1"):
            board.claim(theirs, who)
    assert board.find_owner(mine) == "w1" and mine.state == states.CLAIMED and 50 < mine.expires_in() <= 60
    assert list(board.iterjobs(only_unclaimed=True)) == []
    assert [j.name for j in board.iterjobs()] == ["b1"]
    assert proves(board, mine) and not proves(board, theirs)
    assert mine.extend_expiry(90) and not theirs.extend_expiry(90)
    assert mine.expires_in() > 60
    board.consume(mine, "w1")
    assert board.job_count == 0 and mine.state == states.COMPLETE
    with pytest.raises(exceptions.NotFound):
        board.claim(theirs, "w2")
    with pytest.raises(exceptions.NotFound):
        board.consume(mine, "w1")


def test_a_lease_ends_by_itself(board: SqlJobBoard) -> None:
    board.post("b1")
    job = first(board)
    board.claim(job, "w1", expiry=1.0)
    assert proves(board, job)
    end = time.monotonic() + 10
    while (other := next(board.iterjobs(only_unclaimed=True), None)) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    board.claim(other, "w2")
    assert other.fence == job.fence + 1
    assert proves(board, other) and not proves(board, job)


def test_it_tells_when_the_next_lease_ends(board: SqlJobBoard) -> None:
    assert board.until_free("me") is None
    for name, who, seconds in (("b1", "me", 20.0), ("b2", "other", 90.0), ("b3", "third", 60.0), ("b4", "gone", 0.05)):
        board.post(name)
        board.claim(next(job for job in board.iterjobs() if job.name == name), who, expiry=seconds)
    board.post("b5")
    time.sleep(0.1)  # b4's lease has run out: it is offered already
    left = board.until_free("me")
    assert left is not None and 30 < left <= 60
    nearest = board.until_free("third")
    assert nearest is not None and 0 < nearest <= 20


def test_a_lease_that_ran_out_holds_until_another_one_comes(board: SqlJobBoard) -> None:
    """Its time says when others may take the job, the fence says whether one did."""
    board.post("b1")
    job = first(board)
    board.claim(job, "w1")
    with board.db.begin() as conn:
        assert not board.withdraw_in(conn, "b1")
    expire(board, job)
    assert first(board).name == "b1" and board.find_owner(job) is None  # it is offered
    assert proves(board, job)
    assert job.extend_expiry(10)
    assert list(board.iterjobs(only_unclaimed=True)) == [] and board.find_owner(job) == "w1"
    expire(board, job)
    with board.db.begin() as conn:
        assert board.withdraw_in(conn, "b1")
    assert not proves(board, job) and not job.extend_expiry(10)


def test_who_lost_a_job_can_do_nothing_with_it(board: SqlJobBoard) -> None:
    board.post("b1")
    old, new = first(board), first(board)
    board.claim(old, "w1")
    expire(board, old)
    board.claim(new, "w1")  # the same name, a later claim
    assert not proves(board, old) and not old.extend_expiry(10)
    for end in (board.consume, board.abandon, board.trash):
        with pytest.raises(exceptions.JobFailure):
            end(old, "w1")
    with pytest.raises(ClaimLost), board.db.begin() as conn:
        conn.execute(sa.update(tables.jobs).values(details={"zombie": True}))
        board.consume_in(conn, old)
    assert proves(board, new) and first(board, only_unclaimed=False).details == {}
    board.abandon(new, "w1")
    assert not proves(board, new) and first(board).name == "b1"


def test_trashed_jobs_are_not_offered(board: SqlJobBoard) -> None:
    board.post("b1")
    job = first(board)
    board.claim(job, "w1")
    board.trash(job, "w1")
    assert list(board.iterjobs()) == [] and board.job_count == 0 and not proves(board, job)


def test_one_job_per_build(board: SqlJobBoard) -> None:
    board.post("b1")
    with pytest.raises(Conflict, match="b1"):
        board.post("b1")
    with board.db.begin() as conn:
        with pytest.raises(Conflict):
            board.post_in(conn, "b1", {})
        board.post_in(conn, "b2", {"still": "usable"})  # the transaction goes on, on PostgreSQL too
    assert [j.name for j in board.iterjobs()] == ["b1", "b2"]


def test_a_job_commits_with_its_transaction(board: SqlJobBoard) -> None:
    with pytest.raises(ImageflowError), board.db.begin() as conn:
        board.post_in(conn, "b1", {})
        raise ImageflowError("no")
    assert board.job_count == 0
    board.post("b1")
    job = first(board)
    board.claim(job, "w1")
    with pytest.raises(ImageflowError), board.db.begin() as conn:
        board.consume_in(conn, job)
        raise ImageflowError("no")
    assert board.job_count == 1 and proves(board, job)
    with board.db.begin() as conn:
        board.consume_in(conn, job)
        board.post_in(conn, "b1", {"again": True})  # resume
    assert first(board).details == {"again": True}


def test_order_is_priority_then_age(board: SqlJobBoard) -> None:
    for name, priority in (("a", "LOW"), ("b", "NORMAL"), ("c", "VERY_HIGH"), ("d", "NORMAL"), ("e", "HIGH")):
        board.post(name, priority=priority)
    assert [j.name for j in board.iterjobs(only_unclaimed=True)] == ["c", "e", "b", "d", "a"]
    assert first(board).priority.value == "VERY_HIGH"


def test_prolonging_many_tells_which_are_lost(board: SqlJobBoard) -> None:
    held = []
    for name in "abc":
        board.post(name)
        job = next(j for j in board.iterjobs(only_unclaimed=True) if j.name == name)
        board.claim(job, "w1", expiry=5)
        held.append(job)
    statements: list[str] = []
    sa.event.listen(board.db.engine, "before_cursor_execute", lambda c, k, sql, *a: statements.append(sql.split()[0]))
    assert extend_all(board, held, 100) == []
    assert [s for s in statements if s != "BEGIN"] == ["UPDATE"]
    assert all(job.expires_in() > 90 for job in held)
    expire(board, held[1])
    board.claim(first(board), "w2", expiry=50)
    assert extend_all(board, held, 200) == [held[1]]
    assert held[0].expires_in() > 190 and held[1].expires_in() <= 50
    assert extend_all(board, [], 200) == []


def test_prove_keeps_others_out_until_commit(board: SqlJobBoard) -> None:
    """Between the proof and the commit nobody takes over, even when the lease ends there."""
    board.post("b1")
    mine, theirs = first(board), first(board)
    board.claim(mine, "w1", expiry=0.5)
    won = threading.Event()

    def take() -> None:
        while not won.is_set():
            with contextlib.suppress(exceptions.UnclaimableJob):
                board.claim(theirs, "w2")
                won.set()

    thread = threading.Thread(target=take)
    with board.db.begin() as conn:
        board.prove(conn, mine)
        thread.start()
        assert not won.wait(1.5)  # the lease is over, the transaction is not
        conn.execute(sa.update(tables.jobs).values(details={"by": "w1"}))
    thread.join(40)
    assert won.is_set() and theirs.fence == mine.fence + 1
    assert first(board, only_unclaimed=False).details == {"by": "w1"}


def test_processes_share_jobs_without_overlap(board: SqlJobBoard) -> None:
    for number in range(60):
        board.post(f"b{number}")
    url = board.db.url.render_as_string(hide_password=False)
    won = at_once(claim_jobs, [(url, me) for me in range(3)])
    assert sorted(name for names in won for name in names) == sorted(f"b{n}" for n in range(60))


def test_wait_returns_when_a_job_is_posted(board: SqlJobBoard) -> None:
    with pytest.raises(exceptions.NotFound):
        board.wait(timeout=0.1)
    threading.Timer(0.3, board.post, ("b1",)).start()
    started = time.monotonic()
    assert next(board.wait(timeout=30, poll=20)).name == "b1"
    assert time.monotonic() - started < 10  # woken, not polled


def test_looking_at_an_empty_board_is_one_select(board: SqlJobBoard) -> None:
    statements: list[str] = []
    sa.event.listen(board.db.engine, "before_cursor_execute", lambda c, k, sql, *a: statements.append(sql.split()[0]))
    assert list(board.iterjobs(only_unclaimed=True)) == []
    assert [s for s in statements if s != "BEGIN"] == ["SELECT"]


def test_taskflow_loads_it_as_a_driver(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    with backends.backend("imageflow", {"board": "sql", "connection": url, "lease": 5}) as board:
        assert isinstance(board, SqlJobBoard) and board.connected
        book = models.LogBook("book")
        board.post("b1", book=book, details={"d": 1})
        job = first(board)
        assert (job.name, job.details, job.book_uuid, job.book_name) == ("b1", {"d": 1}, book.uuid, "book")
        assert abs(job.created_on.timestamp() - time.time()) < 10
        board.claim(job, "w1")
        board.consume(job, "w1")
        with pytest.raises(ValueError, match="non-empty"):
            board.claim(job, "")
    assert not board.connected
