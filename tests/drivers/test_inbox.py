"""The inbox on all three databases: each event once, durable before the receipt."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from imageflow.errors import BadInput, Conflict
from imageflow.inbox import SqlInbox
from imageflow.model import Event, Outcome, Verdict
from imageflow.persistence import events, observations, reactions, rebuilds
from imageflow.persistence.database import Database

PUSH = Event("https://git.example/infra", "1", "git.push", subject="refs/heads/main", time=1.5, data={"ref": "x"})


def test_an_event_is_stored_once_and_counted(database: Database) -> None:
    inbox = SqlInbox(database)
    [first] = inbox.receive([PUSH], listener="http")
    [again] = inbox.receive([PUSH], listener="http")
    assert first.new and not again.new
    assert first.event.seq == again.event.seq
    with database.read() as conn:
        stored = events.get(conn, first.event.seq)
    assert (stored.deliveries, stored.data, stored.verdict) == (2, {"ref": "x"}, None)


def test_the_same_event_twice_in_a_batch_is_one(database: Database) -> None:
    receipts = SqlInbox(database).receive([PUSH, PUSH, replace(PUSH, id="2")], listener="http")
    assert [receipt.new for receipt in receipts] == [True, False, True]


def test_a_storm_of_duplicates_is_one_event(database: Database) -> None:
    inbox = SqlInbox(database)
    start = threading.Barrier(8)

    def send(_: int) -> int:
        start.wait()
        return sum(receipt.new for _ in range(125) for receipt in inbox.receive([PUSH], listener="http"))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(8))) == 1
    with database.read() as conn:
        [stored] = events.select(conn)
    assert stored.deliveries == 1000


def test_one_bad_event_does_not_take_others_with_it(database: Database) -> None:
    inbox = SqlInbox(database)
    for bad in (
        replace(PUSH, source=""),
        replace(PUSH, type="x" * 256),
        replace(PUSH, id="a\0b"),
        replace(PUSH, subject="\ud800"),
        replace(PUSH, data={1, 2}),
        replace(PUSH, source="imageflow"),
        replace(PUSH, source="imageflow:schedule"),
    ):
        with pytest.raises(BadInput):
            inbox.receive([PUSH, bad], listener="http")
    with database.read() as conn:
        assert events.select(conn) == []
    assert inbox.receive([replace(PUSH, source="imageflow:schedule")], listener="schedule")[0].new


def test_the_same_proof_under_another_id_is_a_replay(database: Database) -> None:
    inbox = SqlInbox(database)
    proof = "a" * 64
    assert inbox.receive([PUSH], listener="http", proof=proof)[0].new
    assert not inbox.receive([PUSH], listener="http", proof=proof)[0].new
    with pytest.raises(Conflict):
        inbox.receive([replace(PUSH, id="2")], listener="http", proof=proof)
    with database.read() as conn:
        assert len(events.select(conn)) == 1


def test_quarantine_keeps_the_bytes_and_the_reason(database: Database) -> None:
    inbox = SqlInbox(database)
    first = inbox.quarantine("amqp", "queue", b"\x00\xff{rubbish", "no JSON")
    again = inbox.quarantine("amqp", "queue", b"\x00\xff{rubbish", "no JSON")
    assert (first.new, again.new) == (True, False)
    assert first.event.verdict is Verdict.QUARANTINED and first.event.reason == "no JSON"
    assert "rubbish" in first.event.data["raw"]


def test_refusals_are_counted(database: Database) -> None:
    inbox = SqlInbox(database)
    for _ in range(3):
        inbox.refuse("github", "bad signature")
    inbox.flush()
    inbox.refuse("github", "bad signature")
    inbox.flush()
    with database.read() as conn:
        [(endpoint, reason, count, _last)] = observations.refusals_of(conn)
    assert (endpoint, reason, count) == ("github", "bad signature", 4)


def test_an_answer_leaves_what_came_after_the_look(database: Database) -> None:
    """An event that comes while the image is looked at asks for one more look."""
    inbox = SqlInbox(database)
    first, second = (inbox.receive([replace(PUSH, id=id)], listener="http")[0].event.seq for id in ("1", "2"))
    with database.begin() as conn:
        reactions.add(conn, first, "web", "a push", 1.0)
        rebuilds.ask(conn, "web", 1.0)
    with database.begin() as conn:
        assert rebuilds.claim(conn, "web", "me", 60)
        assert not rebuilds.claim(conn, "web", "another", 60)
        assert reactions.take(conn, "web", "look") == reactions.Taken(1, ("a push",), frozenset(), only_parents=False)
    with database.begin() as conn:
        reactions.add(conn, second, "web", "a push", 2.0)
        rebuilds.ask(conn, "web", 2.0)
    with database.begin() as conn:
        assert reactions.answer(conn, "web", "look", Outcome.REUSED) == 1
        assert rebuilds.answer(conn, "web", "me", 3.0)
    with database.read() as conn:
        [left] = rebuilds.select(conn)
        assert (left.image, left.events) == ("web", 1)
        assert [one.outcome for one in reactions.of_events(conn, [first, second])] == [Outcome.REUSED, None]
    with database.begin() as conn:
        assert rebuilds.claim(conn, "web", "me", 60)
        reactions.take(conn, "web", "again")
        reactions.answer(conn, "web", "again", Outcome.REUSED)
        assert not rebuilds.answer(conn, "web", "another", 4.0)
        assert rebuilds.answer(conn, "web", "me", 4.0)
    with database.read() as conn:
        assert rebuilds.select(conn) == []
