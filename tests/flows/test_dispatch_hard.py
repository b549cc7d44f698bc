"""What strangers send, operators do at the wrong moment, and clocks bring about: no event is left without an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.events.inbox import SqlInbox
from imageflow.model import Outcome, Verdict
from imageflow.persistence import reactions, rebuilds
from imageflow.persistence.database import Database
from imageflow.persistence.tables import builds, triggers
from imageflow.persistence.tables import rebuilds as rows
from imageflow.rebuilds.behind import reconcile
from imageflow.rebuilds.dispatcher import RETRY, Dispatcher
from imageflow.rebuilds.matching import match_waiting
from tests.small.yard import PUSH, Yard, open_yard

ONE = """
images:
  - name: a
    method: dib
    dib: {elements: [tiny], skip-base: true}
    configure: [{files: [{path: /etc/motd, source: motd}]}]
    on: [{event: git.push, where: {repository: {glob: "*"}}}]
"""


@pytest.fixture
def yard(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    with open_yard(tmp_path, database_url, monkeypatch) as yard:
        yield yard


@pytest.mark.parametrize(
    "data",
    [
        {"repository": "infra", "after": "\ud800"},
        {"repository": "infra", "after": "a\0b"},
        {"repository": "infra", "after": "ä" * 70_000},
        {"repository": "\udfff\0" + "x" * 600, "ref": "\0\ud800", "after": "1"},
        {"repository": "infra", "owner": {"a": [1]}, "ref": ["x"], "after": "\U0001f600" * 400},
    ],
)
def test_an_event_of_strange_letters_stops_nothing(yard: Yard, data: dict[str, object]) -> None:
    yard.register(ONE)
    yard.inbox.receive([replace(PUSH, id="strange", data=data)], listener="http")
    good = yard.push()
    assert yard.settle() == ["a"]
    assert yard.outcomes(good) == {"a": Outcome.CREATED}
    assert yard.service.events.select(waiting=True) == []


def test_an_event_that_makes_us_stumble_holds_up_no_other_and_can_be_replayed(yard: Yard) -> None:
    yard.register(ONE)
    yard.register(ONE.replace("name: a", "name: b").replace("git.push", "git.tag"), "other")
    broken = sa.update(triggers).where(triggers.c.image == "b")
    text = sa.type_coerce(sa.literal("{"), triggers.c.where.type.impl)
    with yard.service.database.begin() as conn:
        whole = conn.execute(sa.select(triggers.c.where).where(triggers.c.image == "b")).scalar_one()
        conn.execute(broken.values(where=text))
    [bad] = yard.inbox.receive([replace(PUSH, id="bad", type="git.tag")], listener="http")
    good = yard.push()
    yard.settle()
    assert yard.outcomes(good) == {"a": Outcome.CREATED}
    event, _none = yard.service.events.get(bad.event.seq)
    assert event.verdict is Verdict.QUARANTINED and "bug in imageflow" in (event.reason or "")
    with yard.service.database.begin() as conn:
        conn.execute(broken.values(where=whole))
    yard.service.events.replay(bad.event.seq)
    yard.settle()
    assert yard.outcomes(bad.event.seq) == {"b": Outcome.CREATED}


def test_what_is_dropped_while_an_event_is_matched_stays_open(database: Database) -> None:
    """The one transaction does not see what the other one wrote: the image must not be left closed with an open reaction."""

    def event(id: str) -> int:
        [receipt] = SqlInbox(database).receive([replace(PUSH, id=id)], listener="http")
        return receipt.event.seq

    first, second = event("1"), event("2")
    with database.begin() as conn:
        reactions.add(conn, first, "a", "x", 1.0)
        rebuilds.ask(conn, "a", 1.0)

    def drop(conn: sa.Connection) -> None:
        reactions.drop(conn, "a", "dropped")
        began.set()
        rebuilds.close(conn, "a")

    began = threading.Event()
    dropping = threading.Thread(target=database.transact, args=(drop,))
    with database.begin() as conn:
        reactions.add(conn, second, "a", "y", 2.0)
        rebuilds.ask(conn, "a", 2.0)
        dropping.start()
        began.wait(0.5)  # on SQLite it can't begin before we have ended
    dropping.join(60)
    assert not dropping.is_alive()
    with database.read() as conn:
        waits = reactions.waiting(conn, "a")
        assert bool(rebuilds.open_rows(conn)) == bool(waits)


def test_who_looks_at_what_is_dropped_looks_in_vain(database: Database) -> None:
    [receipt] = SqlInbox(database).receive([PUSH], listener="http")
    with database.begin() as conn:
        reactions.add(conn, receipt.event.seq, "a", "x", 1.0)
        rebuilds.ask(conn, "a", 1.0)
        assert rebuilds.claim(conn, "a", "me", 30.0)
        reactions.take(conn, "a", "token")
    with database.begin() as conn:
        reactions.drop(conn, "a", "dropped")
        rebuilds.close(conn, "a")
    with database.begin() as conn:
        assert not rebuilds.answer(conn, "a", "me", time.time())


def test_a_look_that_another_process_took_over_brings_about_no_build(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took longer than its lease, and the input is another one meanwhile."""
    yard.register(ONE)
    seq = yard.push()
    pin, pinned = yard.service.submitter.wanted, []
    parts = (yard.service.config, yard.service.database, yard.service.submitter, yard.service.checkouts, yard.inbox)

    def wanted(*arguments: Any) -> Any:
        found = pin(*arguments)
        pinned.append(found)
        if len(pinned) == 1:
            (yard.site.folder / "motd").write_text("newer")
            with yard.service.database.begin() as conn:
                conn.execute(sa.update(rows).values(until=0.0))
            assert Dispatcher(*parts).once() == ["a"]
        return found

    monkeypatch.setattr(yard.service.submitter, "wanted", wanted)
    assert yard.dispatcher.once() == ["a"]
    assert len({one.key for one in pinned}) == 2
    [build] = yard.service.builds(image="a")
    assert build.key == pinned[1].key
    assert yard.outcomes(seq) == {"a": Outcome.CREATED}


def test_what_others_look_at_counts_for_the_builds_of_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_yard(tmp_path, "", monkeypatch, triggers__max_per_minute="3") as yard:
        for name in "abcdef":
            yard.register(ONE.replace("name: a", f"name: {name}"), name)
        yard.push()
        with yard.service.database.begin() as conn:
            for name in "ab":
                rebuilds.ask(conn, name, 0.0)
                assert rebuilds.claim(conn, name, "another", 30.0)
        assert len(yard.dispatcher.once()) == 1


def test_a_clock_that_is_set_back_holds_nothing(yard: Yard) -> None:
    yard.register(ONE)
    yard.push()
    yard.settle()
    tomorrow = time.time() + 86400.0
    with yard.service.database.begin() as conn:
        conn.execute(sa.update(rows).values(answered=tomorrow, retry=tomorrow))
        conn.execute(sa.update(builds).values(created=tomorrow))
    yard.push()
    with yard.service.database.begin() as conn:
        conn.execute(sa.update(rows).values(retry=tomorrow))
    assert yard.settle() == ["a"]


def test_what_is_released_and_can_t_be_reached_is_not_asked_all_the_time(yard: Yard) -> None:
    yard.register(ONE)
    yard.push()
    match_waiting(yard.service.database)
    yard.service.events.release("a")
    with yard.service.database.begin() as conn:
        assert rebuilds.claim(conn, "a", "me", 30.0)
        rebuilds.put_off(conn, "a", "another", "not its own", retry=time.time() + 2 * RETRY)
        rebuilds.put_off(conn, "a", "me", "the mirror is away", retry=time.time() + RETRY)
    assert yard.dispatcher.once() == []
    assert yard.held() == {"a": "the mirror is away"}
    yard.service.events.release("a")
    assert yard.settle() == ["a"]


def test_what_the_reconcile_pass_asked_for_can_be_replayed(yard: Yard) -> None:
    yard.register(ONE)
    base = "images: [{name: b, method: boot, base: {image: a}, on: [{event: git.tag}]}]"
    yard.register(base, "other")
    yard.push()
    yard.settle()
    yard.inbox.receive([replace(PUSH, id="tag", type="git.tag")], listener="http")
    yard.settle()
    yard.push()
    yard.settle()
    yard.register(base.replace("event: git.tag", "image: a"), "other")
    assert reconcile(yard.service.database) == ["b"]
    assert yard.settle() == ["b"]
    [behind] = yard.service.events.select(type="imageflow.reconcile")
    yard.service.events.replay(behind.seq)
    yard.settle()
    assert yard.service.events.get(behind.seq)[0].verdict is Verdict.MATCHED
    assert yard.outcomes(behind.seq) == {"b": Outcome.UNCHANGED}
