"""The inbox on all three databases: each event once, durable before the receipt."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from imageflow.errors import BadInput
from imageflow.events.inbox import SqlInbox
from imageflow.model import Event, Outcome, Verdict
from imageflow.persistence import events, observations, proofs, reactions, rebuilds
from imageflow.persistence.database import Database, storable

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


def test_the_same_proof_under_another_id_is_another_event_that_is_marked(database: Database) -> None:
    """Two hooks with one secret, or a history that comes back: forges sign the body, and not the id."""
    inbox = SqlInbox(database)
    proof = "a" * 64
    first, other = [PUSH, replace(PUSH, id="1/2")], [replace(PUSH, id="2"), replace(PUSH, id="2/2")]
    assert [one.new for one in inbox.receive(first, listener="http", proof=proof)] == [True, True]
    assert [one.new for one in inbox.receive(first, listener="http", proof=proof)] == [False, False]
    assert [one.new for one in inbox.receive(other, listener="http", proof=proof)] == [True, True]
    assert [one.new for one in inbox.receive(other, listener="http", proof=proof)] == [False, False]
    with database.read() as conn:
        assert [events.is_repeated(conn, one) for one in (*first, *other)] == [False, False, True, True]
        assert [one.deliveries for one in events.select(conn)] == [2, 2, 2, 2]


def test_a_proof_outlives_its_event(database: Database) -> None:
    inbox = SqlInbox(database)
    proof = "b" * 64
    [first] = inbox.receive([PUSH], listener="http", proof=proof)
    with database.begin() as conn:
        events.judge(conn, first.event.seq, Verdict.NO_TRIGGER, None)
        assert events.prune(conn, first.event.received + 1e9) == 1
    [again] = inbox.receive([PUSH], listener="http", proof=proof)
    assert (again.new, again.event.seq) == (False, first.event.seq)
    with database.read() as conn:
        assert events.select(conn) == [], "it is acknowledged, and has no effect"
    [other] = inbox.receive([replace(PUSH, id="2")], listener="http", proof=proof)
    with database.begin() as conn:
        assert events.is_repeated(conn, other.event)
        assert observations.forget(conn, proofs.PREFIX, 0.0) == 0
        assert observations.forget(conn, proofs.PREFIX, first.event.received + 1e9) == 1
        assert proofs.remembered(conn, proof) is None


def test_many_deliveries_with_one_proof_at_once_are_all_stored(database: Database) -> None:
    inbox, start = SqlInbox(database), threading.Barrier(6)

    def send(number: int) -> bool:
        start.wait()
        [receipt] = inbox.receive([replace(PUSH, id=f"hook-{number}")], listener="http", proof="c" * 64)
        return receipt.new

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(send, range(6))) == [True] * 6
    with database.read() as conn:
        assert sorted(events.is_repeated(conn, one) for one in events.select(conn)) == [False] + [True] * 5


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


@pytest.mark.parametrize("text", ["a\0b", "half \ud83d of a pair", "\udcff"], ids=["NUL", "high", "low"])
def test_text_that_no_database_holds_stops_nothing(database: Database, text: str) -> None:
    """In a path that a stranger asks for, in what is watched, in a reason; each is kept as far as it can be."""
    inbox = SqlInbox(database)
    for endpoint in (text, "events"):
        inbox.refuse(endpoint, "not-found")
    inbox.flush()
    with database.begin() as conn:
        counted = {endpoint: count for endpoint, _reason, count, _last in observations.refusals_of(conn)}
        observations.see(conn, text, text, 1.0)
        assert observations.seen(conn, text) == (text.replace(text, storable(text)), 1.0)
        [(event, _new)] = events.add(
            conn, [Event("s", "i", "t", data={text: [text]})], now=1.0, verdict=Verdict.QUARANTINED, reason=text
        )
        stored = events.get(conn, event.seq)
        assert stored.data == {text: [text]}  # JSON keeps it
        assert stored.reason == storable(text)
    assert counted == {storable(text): 1, "events": 1}
    assert "\N{REPLACEMENT CHARACTER}" in storable(text)
    inbox.ready()


def test_ordinary_text_is_kept_as_it_is() -> None:
    for text in ("", "a", "ä \N{PILE OF POO}", "\x01\x7f\x85"):
        assert storable(text) is text
    assert (storable(1), storable(None), storable(b"\0")) == (1, None, b"\0")
