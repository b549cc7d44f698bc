"""Events, refusals and what is remembered of events have a number, a size and an age, on all three databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from imageflow import config as configuration
from imageflow.api.app import create_app
from imageflow.config import Config
from imageflow.errors import InboxFull
from imageflow.events.bound import Bound
from imageflow.events.inbox import SqlInbox
from imageflow.listeners import Surroundings
from imageflow.model import Event, Verdict
from imageflow.persistence import events, heads, observations, proofs
from imageflow.persistence.database import Database
from imageflow.persistence.elapsed import Ages
from imageflow.persistence.heads import Head
from imageflow.persistence.tables import observations as remembered
from imageflow.rebuilds.forgetting import forget
from imageflow.registry.watched import SqlWatched

KIB = 1024
PUSH = Event("https://git.example/infra", "1", "git.push", data={"text": "x" * 1000})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configuration.load(state_dir=str(tmp_path / "state"))


def judged(database: Database) -> None:
    """Every event has a verdict."""
    with database.begin() as conn:
        for event in events.waiting(conn, 10_000):
            events.judge(conn, event.seq, Verdict.NO_TRIGGER, None)


def kept(database: Database) -> list[str]:
    with database.read() as conn:
        return [event.id for event in reversed(events.select(conn, limit=10_000))]


def total(database: Database) -> tuple[int, int]:
    with database.read() as conn:
        return events.total(conn)


def test_the_oldest_go_when_there_are_too_many(database: Database) -> None:
    inbox = SqlInbox(database, bound=Bound(database, most=100))
    for number in range(100):
        inbox.receive([replace(PUSH, id=str(number))], listener="http")
    judged(database)
    inbox.receive([replace(PUSH, id="new")], listener="http")
    left = kept(database)
    assert left[-1] == "new" and 0 < len(left) <= 100
    assert left[:-1] == [str(number) for number in range(100 - len(left) + 1, 100)], "the newest stay"


def test_the_oldest_go_when_they_are_too_large(database: Database) -> None:
    inbox = SqlInbox(database, bound=Bound(database, most_bytes=1000 * KIB))
    for number in range(300):
        large = replace(PUSH, id=str(number), data={"text": "x" * 10 * KIB})
        inbox.receive([large], listener="http")
        judged(database)
        assert total(database)[1] <= 1000 * KIB
    assert kept(database)[-1] == "299"


def test_those_that_wait_stay_and_further_ones_are_refused(database: Database) -> None:
    inbox = SqlInbox(database, bound=Bound(database, most=50))
    for number in range(50):
        inbox.receive([replace(PUSH, id=str(number))], listener="http")
    for refused in (
        lambda: inbox.receive([replace(PUSH, id="one more")], listener="http"),
        lambda: inbox.quarantine("amqp", "somebody", b"\xff", "not JSON"),
        lambda: inbox.receive([replace(PUSH, id="signed")], listener="http", proof="a" * 64),
    ):
        with pytest.raises(InboxFull) as caught:
            refused()
        assert "[events] max_size and max_count" in caught.value.hint
    assert len(kept(database)) == 50
    judged(database)
    until_room(inbox)
    assert kept(database)[-1] == "one more"


def until_room(inbox: SqlInbox) -> None:
    """There is a look at what is kept each second."""
    waiting = threading.Event()
    for _ in range(100):
        try:
            inbox.receive([replace(PUSH, id="one more")], listener="http")
            return
        except InboxFull:
            waiting.wait(0.1)
    raise AssertionError("there is room, and nobody noticed")


def test_events_that_are_just_being_stored_count(database: Database) -> None:
    bound = Bound(database, most=3)
    inbox = SqlInbox(database, bound=bound)
    inbox.receive([replace(PUSH, id="1"), replace(PUSH, id="2")], listener="http")
    with pytest.raises(ZeroDivisionError), bound.admitted([PUSH]):
        with pytest.raises(InboxFull):
            inbox.receive([replace(PUSH, id="3")], listener="http")
        raise ZeroDivisionError("the first one could not be stored")
    inbox.receive([replace(PUSH, id="3")], listener="http")
    assert kept(database) == ["1", "2", "3"]


def test_what_many_send_at_once_is_bounded_together(database: Database) -> None:
    inbox = SqlInbox(database, bound=Bound(database, most=200))
    stop = threading.Event()

    def judge() -> None:
        while not stop.wait(0.01):
            judged(database)

    judging = threading.Thread(target=judge)
    judging.start()

    def send(sender: int) -> None:
        for number in range(100):
            try:
                inbox.receive([replace(PUSH, id=f"{sender}-{number}")], listener="http")
            except InboxFull:
                pass

    senders = [threading.Thread(target=send, args=(sender,)) for sender in range(6)]
    for one in senders:
        one.start()
    for one in senders:
        one.join()
    stop.set()
    judging.join()
    assert total(database)[0] <= 200


def test_a_signature_outlives_its_event_when_there_are_too_many(database: Database) -> None:
    inbox = SqlInbox(database, bound=Bound(database, most=10))
    inbox.receive([PUSH], listener="http", proof="f" * 64)
    judged(database)
    for number in range(20):
        inbox.receive([replace(PUSH, id=f"n{number}")], listener="http")
        judged(database)
    assert PUSH.id not in kept(database)
    [again] = inbox.receive([PUSH], listener="http", proof="f" * 64)
    assert not again.new


def test_only_so_many_signatures_and_refs_are_remembered(database: Database, config: Config) -> None:
    few = replace(config, events=replace(config.events, max_proofs=30, max_refs=20))
    with database.begin() as conn:
        now = conn.execute(sa.select(database.now())).scalar_one()
        for number in range(100):
            proofs.remember(conn, f"{number}", "d", number, now - 1000 + number)
            heads.keep(conn, f"r{number}", Head("a" * 40), now - 1000 + number)
    forget(few, database, Ages(database, "here"))
    with database.read() as conn:
        found = sorted(conn.scalars(sa.select(remembered.c.name)))
    left = [name for name in found if name.startswith(proofs.PREFIX)]
    assert sorted(left) == sorted(f"{proofs.PREFIX}{number}" for number in range(70, 100))
    assert len([name for name in found if name.startswith(heads.PREFIX)]) == 20


def test_what_nobody_watches_any_more_is_forgotten_and_what_does_not_change_stays(
    database: Database, config: Config
) -> None:
    old = 3 * 365 * 86400.0
    with database.begin() as conn:
        now = conn.execute(sa.select(database.now())).scalar_one()
        for name in ("git:followed", "git:removed", "watch:web/motd", "schedule:web/0 3 * * */UTC", "gerrit:gone"):
            observations.see(conn, name, "a value", now - old)
        observations.refused(conn, {("events", "event.unauthorized"): 1}, now - old)
        observations.refused(conn, {("webhooks/github", "webhook.signature"): 1}, now)
    assert SqlWatched(database).seen("git:followed") is not None
    forget(config, database, Ages(database, "here"))
    with database.read() as conn:
        names = [one for one in conn.scalars(sa.select(remembered.c.name)) if not one.startswith("imageflow:")]
        assert names == ["git:followed"]
        assert [row[0] for row in observations.refusals_of(conn)] == ["webhooks/github"]


@pytest.fixture
def door(database: Database, config: Config) -> Iterator[tuple[SqlInbox, httpx.Client]]:
    from fastapi.testclient import TestClient

    inbox = SqlInbox(database)
    generous = replace(config, api=replace(config.api, rate="20/minute"))
    with TestClient(create_app(Surroundings(generous, inbox, None)), raise_server_exceptions=False) as client:
        yield inbox, client


def test_strangers_make_no_rows_of_refusals(database: Database, door: tuple[SqlInbox, httpx.Client]) -> None:
    """Whatever path they invent, whether the limit of their requests is reached or not."""
    inbox, client = door
    codes = {client.post(f"/v1/webhooks/{number}", content="{}").status_code for number in range(200)}
    codes |= {client.post(f"/v1/{number}", headers={"content-length": "9" * 20}).status_code for number in range(10)}
    assert 429 in codes
    inbox.flush()
    with database.read() as conn:
        found = observations.refusals_of(conn)
    assert sum(row[2] for row in found) > 100
    assert {row[0] for row in found} == {"api"}, found
    assert len(found) < 5


def test_a_counter_of_refusals_has_an_end(database: Database) -> None:
    inbox = SqlInbox(database)
    for number in range(3401):
        inbox.refuse("http", f"a reason {number}")
    inbox.flush()
    with database.read() as conn:
        found = observations.refusals_of(conn)
    assert sum(row[2] for row in found) == 3401 and len(found) <= 501
