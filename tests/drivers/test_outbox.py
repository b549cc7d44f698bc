"""The outbox: written with what it tells, sent in order per build by one at a time; on all three databases."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.errors import Conflict, NotFound
from imageflow.model import Artifact, Build, BuildState, Delivery, Version
from imageflow.persistence import builds, outbox, tables
from imageflow.persistence.database import Database
from tests.cpu import spent
from tests.small.racers import at_once, send_all

ME = "me"


def a_build(database: Database, **values: Any) -> Build:
    id = uuid.uuid4().hex[:12]
    defaults = {"method": "dib", "state": BuildState.QUEUED, "reason": "new", "flow": "f", "created": 1.5}
    build = Build(id=id, image="web", key=id * 5, recipe={"a": "b"}, pins={"x": "y"}, **(defaults | values))
    with database.begin() as conn:
        return builds.insert(conn, build, claim=False)


def a_version(build: Build) -> Version:
    artifact = Artifact(name="web.qcow2", format="qcow2", size=1 << 40, digest="ab" * 32, virtual_size=1 << 41)
    return Version(
        0,
        "web",
        build.id,
        build.key,
        "ab" * 32,
        2.5,
        "directory",
        "/p",
        (artifact,),
        {"os": "debian"},
        7,
        content="cd" * 32,
    )


def tell(database: Database, build: Build, *what: str, targets: tuple[str, ...] = ("http",)) -> None:
    for one in what:
        database.transact(lambda conn, one=one: outbox.announce_build(conn, targets, one, build))  # type: ignore[misc]


def take(database: Database, target: str = "http", owner: str = ME, lease: float = 60.0) -> Delivery | None:
    return database.transact(lambda conn: outbox.take(conn, target, owner, lease))


def types(found: list[Delivery]) -> list[str]:
    return [one.announcement.type.rpartition(".")[2] for one in found]


def listed(database: Database, **how: Any) -> list[Delivery]:
    with database.read() as conn:
        return outbox.select(conn, **how)


def test_what_is_told_of_a_build_is_what_the_transaction_leaves(database: Database) -> None:
    build = a_build(database, started=2.0)
    with database.begin() as conn:
        builds.change(conn, build.id, to=BuildState.SUCCEEDED, ended=3.25, digest="d" * 64)
        outbox.announce_build(conn, ["http"], "end", build, version={"n": 1})
    (found,) = listed(database)
    data = found.announcement.data
    assert (data["state"], data["digest"], data["duration"], data["version"]) == ("succeeded", "d" * 64, 1.25, {"n": 1})
    assert (data["created"], data["ended"], data["paused"]) == (
        "1970-01-01T00:00:01.500Z",
        "1970-01-01T00:00:03.250Z",
        None,
    )
    assert not {"recipe", "pins", "folder", "flow"} & set(data)
    assert found.announcement.type == "imageflow.build.end"
    assert abs(found.announcement.time - time.time()) < 60


def test_what_is_told_of_an_image(database: Database) -> None:
    build = a_build(database)
    with database.begin() as conn:
        outbox.announce_image(conn, ["http"], "publish", a_version(build))
    (found,) = listed(database)
    assert found.announcement.build_id == build.id
    assert found.announcement.data == {
        "name": "web",
        "digest": "ab" * 32,
        "content": "cd" * 32,
        "build": build.id,
        "key": build.key,
        "store": "directory",
        "path": "/p",
        "artifacts": [
            {"name": "web.qcow2", "format": "qcow2", "size": 1 << 40, "digest": "ab" * 32, "virtual_size": 1 << 41}
        ],
        "properties": {"os": "debian"},
        "packages": 7,
        "created": "1970-01-01T00:00:02.500Z",
        "why": None,
    }


def test_without_targets_nothing_is_written(database: Database) -> None:
    build = a_build(database)
    tell(database, build, "start", targets=())
    with database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(tables.outbox)).scalar() == 0


def test_nothing_is_told_of_what_did_not_happen(database: Database) -> None:
    build = a_build(database)
    with pytest.raises(RuntimeError), database.begin() as conn:
        outbox.announce_build(conn, ["http"], "start", build)
        raise RuntimeError
    assert listed(database) == []


def test_a_transaction_that_runs_twice_tells_once(database: Database) -> None:
    build = a_build(database)
    tell(database, build, "start", "start", "pause", "pause", "resume", "pause", "resume", "resume", targets=("a", "b"))
    found = listed(database)
    assert types(found[::-2]) == ["start", "pause", "resume", "pause", "resume"]
    assert len({one.announcement.id for one in found}) == 5
    assert len(found) == 10


def test_a_build_is_told_in_order_and_others_do_not_wait_for_it(database: Database) -> None:
    one, two = a_build(database), a_build(database)
    tell(database, one, "start", "pause")
    tell(database, two, "start")
    first, second = take(database), take(database, owner="second")
    assert first is not None and second is not None
    assert [first.announcement.build_id, second.announcement.build_id] == [one.id, two.id]
    assert take(database, owner="third") is None, "the pause waits for the start"
    assert take(database) == first, "who took it finds it again, when the answer of that commit got lost"
    with database.begin() as conn:
        assert not outbox.due(conn, "http")
        assert outbox.sent(conn, first, ME)
        assert not outbox.sent(conn, first, ME)
        assert outbox.due(conn, "http")
    third = take(database)
    assert third is not None and types([third]) == ["pause"]


def test_targets_do_not_wait_for_each_other(database: Database) -> None:
    build = a_build(database)
    tell(database, build, "start", "end", targets=("http", "amqp"))
    for _ in range(2):
        found = take(database, "amqp")
        assert found is not None
        database.transact(lambda conn, found=found: outbox.sent(conn, found, ME))  # type: ignore[misc]
    assert take(database, "amqp") is None
    found = take(database, "http")
    assert found is not None and types([found]) == ["start"]


def test_a_no_is_tried_again_later_and_its_build_waits(database: Database) -> None:
    build = a_build(database)
    tell(database, build, "start", "end")
    found = take(database)
    assert found is not None
    with database.begin() as conn:
        assert outbox.failed(conn, found, ME, "500", wait=0.3)
    assert take(database) is None
    assert listed(database)[1].attempts == 1
    assert listed(database)[1].error == "500"
    end = time.monotonic() + 10
    while (again := take(database)) is None:
        assert time.monotonic() < end
    assert again.announcement.id == found.announcement.id
    with database.begin() as conn:
        assert outbox.put_back(conn, again, ME, "away")
    assert listed(database)[1].attempts == 1, "that the target is away says nothing about the announcement"
    assert take(database) is not None


def test_a_lease_that_ran_out_lets_another_one_send_and_the_first_one_knows(database: Database) -> None:
    tell(database, a_build(database), "start")
    mine = take(database, lease=0.2)
    assert mine is not None
    end = time.monotonic() + 10
    while (theirs := take(database, owner="other")) is None:
        assert time.monotonic() < end
    with database.begin() as conn:
        for settle in (outbox.sent, outbox.put_back):
            assert not settle(conn, mine, ME)
        assert not outbox.failed(conn, mine, ME, "x", 1)
        assert not outbox.bury(conn, mine, ME, "x")
        assert outbox.sent(conn, theirs, "other")
    assert listed(database)[0].state == "sent"


def test_dead_letters_stay_until_they_are_replayed(database: Database) -> None:
    build = a_build(database)
    tell(database, build, "start", "end", targets=("http", "amqp"))
    dead = take(database)
    assert dead is not None
    with database.begin() as conn:
        outbox.bury(conn, dead, ME, "it answered 410")
    after = take(database)
    assert after is not None and types([after]) == ["end"], "the next one of the build goes on"
    (letter,) = listed(database, states=["dead"], target="http")
    assert (letter.error, letter.attempts) == ("it answered 410", 1)
    assert listed(database, states=["dead"], target="amqp") == []
    with database.read() as conn:
        assert outbox.counts(conn) == {("http", "dead"): 1, ("http", "waiting"): 1, ("amqp", "waiting"): 2}
    with database.begin() as conn:
        assert outbox.replay(conn, target="amqp") == 0
        assert outbox.replay(conn, dead.announcement.id[:8], "http") == 1
        with pytest.raises(Conflict, match="already waiting"):
            outbox.replay(conn, dead.announcement.id)
        with pytest.raises(NotFound, match="does not go"):
            outbox.replay(conn, dead.announcement.id, "other")
        for wrong in ("0000-no-such", "", "%", "ffffffffffff", "zz"):
            with pytest.raises(NotFound):
                outbox.replay(conn, wrong)
    again = take(database)
    assert again is not None
    assert (again.announcement.id, again.attempts, again.state) == (dead.announcement.id, 0, "waiting")


def test_what_was_sent_can_be_sent_again(database: Database) -> None:
    tell(database, a_build(database), "start")
    found = take(database)
    assert found is not None
    with database.begin() as conn:
        outbox.sent(conn, found, ME)
        assert outbox.replay(conn) == 0, "only dead letters are replayed without an id"
        assert outbox.replay(conn, found.announcement.id) == 1
    assert take(database) is not None


def test_what_waits_too_long_is_given_up_even_for_targets_that_are_gone(database: Database) -> None:
    build = a_build(database)
    tell(database, build, "start", targets=("http", "gone"))
    held = take(database)
    assert held is not None
    with database.begin() as conn:
        assert outbox.give_up(conn, 3600.0) == 0
        conn.execute(sa.update(tables.deliveries).values(since=time.time() - 7200))
        assert outbox.give_up(conn, 3600.0) == 1, "not what is being sent right now"
        outbox.put_back(conn, held, ME, "no route")
        assert outbox.give_up(conn, 3600.0) == 1
        assert outbox.replay(conn) == 2
        assert outbox.give_up(conn, 3600.0) == 0, "a replayed one has its time again"
    assert {one.error for one in listed(database)} == {"no route", "it could not be sent in time"}


def test_what_everybody_has_is_forgotten_in_the_end(database: Database) -> None:
    over, active, dead, fresh = (a_build(database) for _ in range(4))
    for build in (over, active, dead, fresh):
        tell(database, build, "start", "end", targets=("a", "b"))
    with database.begin() as conn:
        for build in (over, dead, fresh):
            builds.change(conn, build.id, to=BuildState.SUCCEEDED)
        old = time.time() - 100
        conn.execute(sa.update(tables.deliveries).values(state="sent", sent=old))
        newest = {build.id: listed_seq(conn, build) for build in (dead, fresh)}
        for build, values in ((dead, {"state": "dead"}), (fresh, {"sent": time.time()})):
            one = (tables.deliveries.c.seq == newest[build.id], tables.deliveries.c.target == "b")
            conn.execute(sa.update(tables.deliveries).where(*one).values(**values))
        assert outbox.prune(conn, 1000.0, 1e6) == 0
        assert outbox.prune(conn, 50.0, 1e6) == 2
        assert outbox.prune(conn, 50.0, 1e6) == 0
    assert {one.announcement.build_id for one in listed(database)} == {active.id, dead.id, fresh.id}
    assert len(listed(database)) == 12


def listed_seq(conn: sa.Connection, build: Build) -> int:
    query = sa.select(sa.func.max(tables.outbox.c.seq)).where(tables.outbox.c.build_id == build.id)
    return int(conn.execute(query).scalar_one())


def test_processes_that_send_at_once_send_each_one_once_and_in_order(database: Database, database_url: str) -> None:
    made = [a_build(database) for _ in range(6)]
    for build in made:
        tell(database, build, "start", "pause", "resume", "pause", "resume", "end")
    found = [one for part in at_once(send_all, [(database_url, me) for me in range(3)]) for one in part]
    assert len(found) == len({id for _, _, id, _ in found}) == 36
    for build in made:
        mine = sorted((moment, kind) for moment, about, _, kind in found if about == build.id)
        assert [kind.rpartition(".")[2] for _, kind in mine] == ["start", "pause", "resume", "pause", "resume", "end"]


def test_the_next_one_is_found_quickly_behind_many(database: Database, database_pids: list[int]) -> None:
    build, later = a_build(database), time.time() + 3600
    rows = [
        {"id": str(uuid.UUID(int=n)), "build_id": f"{n % 50:012x}", "type": "t", "time": 1.0, "data": {}}
        for n in range(5000)
    ]
    with database.begin() as conn:
        conn.execute(sa.insert(tables.outbox), rows)
        seqs = conn.execute(sa.select(tables.outbox.c.seq).order_by(tables.outbox.c.seq)).scalars()
        waiting = [
            {"seq": seq, "target": "http", "state": "waiting", "since": 1.0, "next": later if n < 50 else 0.0}
            for n, seq in enumerate(seqs)
        ]
        conn.execute(sa.insert(tables.deliveries), waiting)
    tell(database, build, "start")
    with spent(*database_pids) as seconds:
        found = take(database)
    assert found is not None and found.announcement.build_id == build.id
    assert seconds() < 1.0


def test_a_wait_from_before_a_clock_was_set_back_is_over(database: Database) -> None:
    """No announcement is put off for more than a day."""
    build = a_build(database)
    tell(database, build, "start")
    for later, due in ((60.0, False), (40 * 86400.0, True)):
        with database.begin() as conn:
            conn.execute(sa.update(tables.deliveries).values(next=database.now() + later, owner=None, until=0.0))
        assert (take(database) is not None) is due


def test_the_build_that_is_given_counts_where_there_is_no_row(database: Database) -> None:
    build = replace(a_build(database), id="f" * 12, state=BuildState.FAILED, error="x")
    tell(database, build, "error")
    assert listed(database)[0].announcement.data["state"] == "failed"
