"""The records: builds and their claims, steps, ledger, versions; on all three databases."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.errors import Conflict, NotFound
from imageflow.model import Artifact, Build, BuildState, ResourceKind, StepState, Version, Wish
from imageflow.persistence import builds, ledger, steps, tables, versions
from imageflow.persistence.database import Database
from tests.cpu import spent
from tests.small.racers import at_once, claim_keys

DIGEST = "ab" * 32


def a_build(id: str = "", key: str = "", **values: Any) -> Build:
    id = id or uuid.uuid4().hex[:12]
    defaults = {
        "image": "web",
        "method": "dib",
        "state": BuildState.QUEUED,
        "reason": "new",
        "flow": "f",
        "created": 1.5,
    }
    return Build(id=id, key=key or id * 5, **(defaults | values))


def a_version(build_id: str, digest: str = DIGEST, image: str = "web") -> Version:
    artifact = Artifact(name="web.qcow2", format="qcow2", size=1 << 40, digest=digest, virtual_size=1 << 41)
    return Version(0, image, build_id, "k", digest, 2.5, "directory", "/p", (artifact,), {"os_distro": "debian"}, 7)


# Builds


def test_a_build_comes_back_as_it_was(database: Database) -> None:
    build = a_build(
        reason="größer ≠ “kleiner” 🎉",
        recipe={"b": [1, 2.5, None], "a": {"ü": "\\"}},
        pins={"file:x": "1" * 64},
        folder="/tmp/öß",
        forced=True,
        wish=Wish.CANCEL,
        started=1700000000.123456,
        error="e" * 100_000,
    )
    with database.begin() as conn:
        stored = builds.insert(conn, build, claim=True)
        assert stored.seq > 0
    with database.read() as conn:
        assert builds.get(conn, build.id) == stored == replace(build, seq=stored.seq)
        assert builds.holder(conn, build.key) == stored


def test_get_by_prefix(database: Database) -> None:
    with database.begin() as conn:
        for id in ("abc000000000", "abc111111111", "def000000000"):
            builds.insert(conn, a_build(id), claim=True)
        assert builds.get(conn, "d").id == builds.get(conn, "def000000000").id == "def000000000"
        assert builds.get(conn, "abc1").id == "abc111111111"
        with pytest.raises(NotFound, match="several"):
            builds.get(conn, "abc")
        for bad in ("", "f", "%", "_bc", "ABC0", "abc0000000000", "'", "a' or 1=1"):
            with pytest.raises(NotFound, match="no build"):
                builds.get(conn, bad)


def test_one_build_stands_for_a_key(database: Database) -> None:
    first, second = a_build(key="k"), a_build(key="k")
    with database.begin() as conn:
        assert builds.claim_or_holder(conn, first) is None
        found = builds.claim_or_holder(conn, second)
        assert found is not None and found.id == first.id
        with pytest.raises(Conflict, match=first.id):
            builds.insert(conn, second, claim=True)
        with pytest.raises(NotFound):
            builds.get(conn, second.id)
        builds.insert(conn, second, claim=False)  # --force
        assert builds.holder(conn, "k").id == first.id  # type: ignore[union-attr]
        builds.take_claim(conn, second)
        assert builds.holder(conn, "k").id == second.id  # type: ignore[union-attr]
        builds.drop_claim(conn, second.id)
        assert builds.holder(conn, "k") is None


def test_a_build_that_ends_without_success_gives_its_key_up(database: Database) -> None:
    for state in BuildState:
        build = a_build()
        with database.begin() as conn:
            builds.insert(conn, build, claim=True)
            assert builds.change(conn, build.id, to=state)
            keeps = not state.ended or state is BuildState.SUCCEEDED
            assert (builds.holder(conn, build.key) is not None) == keeps, state


def test_change_is_conditional(database: Database) -> None:
    build = a_build()
    with database.begin() as conn:
        builds.insert(conn, build, claim=True)
        assert not builds.change(conn, build.id, to=BuildState.PAUSED, frm=(BuildState.RUNNING,), paused=3.0)
        assert builds.get(conn, build.id).state is BuildState.QUEUED
        assert builds.change(
            conn, build.id, to=BuildState.RUNNING, frm=(BuildState.QUEUED, BuildState.PAUSED), host="h"
        )
        assert builds.change(conn, build.id, to=BuildState.RUNNING, frm=(BuildState.RUNNING,))  # the same again
        assert not builds.change(conn, "ffffffffffff", to=BuildState.RUNNING)
        assert (builds.get(conn, build.id).state, builds.get(conn, build.id).host) == (BuildState.RUNNING, "h")


def test_wishes_are_those_of_the_builds_that_have_one(database: Database) -> None:
    build, ended = a_build(), a_build(state=BuildState.SUCCEEDED)
    with database.begin() as conn:
        builds.insert(conn, build, claim=True)
        builds.insert(conn, ended, claim=True)
        assert builds.wishes(conn, [build.id, ended.id]) == {} == builds.wishes(conn, [])
        assert builds.change(conn, build.id, unwished=True, wish=Wish.CANCEL)
        assert not builds.change(conn, build.id, unwished=True, wish=Wish.ABORT)
        assert builds.wishes(conn, [build.id, ended.id]) == {build.id: Wish.CANCEL}


def test_select_and_latest(database: Database) -> None:
    with database.begin() as conn:
        for number in range(6):
            state = BuildState.SUCCEEDED if number % 2 else BuildState.PAUSED
            build = a_build(
                f"{number:012x}", image=f"i{number % 3}", state=state, paused=float(number), pins={"p": str(number)}
            )
            builds.insert(conn, build, claim=True)

        def numbers(**kw: Any) -> list[int]:
            return [int(b.id, 16) for b in builds.select(conn, **kw)]

        assert numbers() == [5, 4, 3, 2, 1, 0]
        assert numbers(limit=2) == [5, 4]
        assert numbers(image="i0") == [3, 0]
        assert numbers(states=[BuildState.PAUSED], limit=2) == [4, 2]
        assert numbers(states=[BuildState.PAUSED, BuildState.SUCCEEDED, BuildState.QUEUED], limit=4) == [5, 4, 3, 2]
        assert numbers(states=[BuildState.PAUSED, BuildState.SUCCEEDED], image="i1") == [4, 1]
        assert numbers(states=["paused"]) == [4, 2, 0]
        assert numbers(image="I0") == []  # names are compared exactly
        everything = builds.select(conn)
        assert numbers(before=everything[3].seq) == [1, 0]
        assert all(b.recipe == {} and b.pins == {} for b in everything)
        latest = builds.latest(conn, "i0")
        assert latest is not None and latest.pins == {"p": "3"}
        assert builds.latest(conn, "none") is None
        assert builds.paused_before(conn, 3.0) == [f"{0:012x}", f"{2:012x}"]


def test_processes_that_want_the_same_make_one_build(database: Database) -> None:
    keys = [uuid.uuid4().hex for _ in range(50)]
    url = database.url.render_as_string(hide_password=False)
    for (one, told_one), (other, told_other) in zip(
        *at_once(claim_keys, [(url, 1, keys), (url, 2, keys)]), strict=True
    ):
        assert (told_one, told_other) in ((None, one), (other, None))
    with database.read() as conn:
        assert conn.execute(sa.select(sa.func.count()).select_from(tables.builds)).scalar() == len(keys)


# Steps


def test_steps_and_attempts(database: Database) -> None:
    build = a_build()
    with database.begin() as conn:
        builds.insert(conn, build, claim=True)
        assert steps.begin(conn, build.id, "disk", position=1, started=10.0, conductor="me") == 1
        assert steps.update(conn, build.id, "disk", 1, progress=0.5, message="install.d", phases=(("root.d", 0.5),))
        assert steps.finish(conn, build.id, "disk", 1, StepState.FAILED, ended=12.0, error="no")
        assert steps.begin(conn, build.id, "disk", position=1, started=20.0) == 2
        assert steps.begin(conn, build.id, "inputs", position=0, started=5.0) == 1
        assert steps.finish(conn, build.id, "disk", 2, StepState.SUCCEEDED, ended=25.0)
        assert not steps.update(conn, build.id, "disk", 3, progress=1.0)
        found = steps.of(conn, build.id)
        assert [(s.name, s.attempt, s.state.value, s.progress) for s in found] == [
            ("inputs", 1, "running", 0.0),
            ("disk", 1, "failed", 0.5),
            ("disk", 2, "succeeded", 1.0),
        ]
        assert found[1].phases == (("root.d", 0.5),) and found[1].error == "no"
        assert steps.last(conn, build.id, "disk") == found[2]
        assert steps.last(conn, build.id, "other") is None


def test_an_attempt_that_nobody_ended_is_over_when_the_next_one_begins(database: Database) -> None:
    build = a_build()
    with database.begin() as conn:
        builds.insert(conn, build, claim=True)
        steps.begin(conn, build.id, "disk", position=0, started=10.0, conductor="the dead")
        steps.begin(conn, build.id, "disk", position=0, started=20.0, conductor="the next")
        first, second = steps.of(conn, build.id)
    assert (first.state, first.ended, first.error) == (StepState.FAILED, 20.0, steps.INTERRUPTED)
    assert (second.state, second.ended, second.error) == (StepState.RUNNING, None, None)


def test_history_is_of_succeeded_builds_of_the_image(database: Database) -> None:
    with database.begin() as conn:
        for number, (image, state) in enumerate(
            [("web", "succeeded"), ("web", "failed"), ("db", "succeeded"), ("web", "succeeded"), ("web", "succeeded")]
        ):
            build = a_build(image=image, state=BuildState(state))
            builds.insert(conn, build, claim=False)
            steps.begin(conn, build.id, "disk", position=0, started=1.0)
            steps.finish(conn, build.id, "disk", 1, StepState.FAILED, ended=2.0)
            steps.begin(conn, build.id, "disk", position=0, started=3.0)
            steps.finish(conn, build.id, "disk", 2, StepState.SUCCEEDED, ended=3.0 + number)
        assert [[s.ended for s in one] for one in steps.history(conn, "web", 2)] == [[7.0], [6.0]]
        assert len(steps.history(conn, "web", 10)) == 3
        assert steps.history(conn, "none") == []


def test_steps_go_with_their_build(database: Database) -> None:
    build = a_build()
    with database.begin() as conn:
        builds.insert(conn, build, claim=True)
        steps.begin(conn, build.id, "disk", position=0, started=1.0)
    with database.begin() as conn:
        conn.execute(sa.delete(tables.builds).where(tables.builds.c.id == build.id))
    with database.read() as conn:
        assert steps.of(conn, build.id) == []


# Ledger


def test_ledger_opens_again_and_closes(database: Database) -> None:
    with database.begin() as conn:
        for at in (1.0, 2.0):
            ledger.open(conn, "b1", ResourceKind.MOUNT, "/a/B", "here", at)
        ledger.open(conn, "b1", ResourceKind.MOUNT, "/a/b", "here", 3.0)
        ledger.open(conn, "b1", ResourceKind.LOOP, "/a/B", "there", 3.0)
        rows = ledger.select(conn)
        assert [(r.kind, r.name, r.host, r.opened) for r in rows] == [
            (ResourceKind.MOUNT, "/a/B", "here", 2.0),
            (ResourceKind.MOUNT, "/a/b", "here", 3.0),
            (ResourceKind.LOOP, "/a/B", "there", 3.0),
        ]
        ledger.failed(conn, rows[0].id, "busy")
        assert ledger.select(conn, host="here", build_id="b1")[0].error == "busy"
        assert ledger.close(conn, "b1", ResourceKind.MOUNT, "/a/B", "here", 4.0)
        assert not ledger.close(conn, "b1", ResourceKind.MOUNT, "/a/B", "here", 5.0)
        assert [r.name for r in ledger.select(conn, host="here")] == ["/a/b"]
        closed = ledger.select(conn, open_only=False)[0]
        assert (closed.closed, closed.error) == (4.0, None)
        ledger.open(conn, "b1", ResourceKind.MOUNT, "/a/B", "here", 6.0)
        again = ledger.select(conn, host="here")[0]
        assert (again.id, again.opened, again.closed) == (closed.id, 6.0, None)
        assert ledger.close_id(conn, again.id, 7.0) and not ledger.close_id(conn, again.id, 8.0)


def test_the_dead_are_open_rows_of_ended_builds_on_this_host(database: Database) -> None:
    with database.begin() as conn:
        for state in BuildState:
            build = a_build(state=state, image=state.value)
            builds.insert(conn, build, claim=False)
            ledger.open(conn, build.id, ResourceKind.DIRECTORY, f"/{state}", "here", 1.0)
            ledger.open(conn, build.id, ResourceKind.DIRECTORY, f"/{state}", "there", 1.0)
            ledger.open(conn, build.id, ResourceKind.DIRECTORY, "/gone", "here", 1.0)
            ledger.close(conn, build.id, ResourceKind.DIRECTORY, "/gone", "here", 2.0)
        ledger.open(conn, "0000nobuild0", ResourceKind.DIRECTORY, "/orphan", "here", 1.0)
        found = ledger.dead(conn, "here")
        assert [r.name for r in found] == ["/orphan", "/superseded", "/cancelled", "/aborted", "/failed", "/succeeded"]
        assert {r.host for r in found} == {"here"}


# Versions


def test_versions_are_found_by_name_and_digest(database: Database) -> None:
    with database.begin() as conn:
        old = versions.add(conn, a_version("b1", "aaaa" + "0" * 60))
        new = versions.add(conn, a_version("b2", "aaab" + "0" * 60))
        other = versions.add(conn, a_version("b3", "cccc" + "0" * 60, image="db"))
        same = versions.add(conn, a_version("b4", "cccc" + "0" * 60, image="copy"))
        assert versions.add(conn, a_version("b1")) == old  # again, after a commit whose answer got lost
        assert versions.of(conn, "b2") == new and versions.of(conn, "b9") is None
        assert versions.get(conn, "web") == new and new.artifacts[0].virtual_size == 1 << 41
        assert versions.get(conn, "web@aaaa") == old == versions.get(conn, "aaaa")
        assert versions.get(conn, "db@cccc") == other and versions.get(conn, "cccc") == same
        for bad in ("nothing", "web@cccc", "web@", "@aaaa", "WEB", "aaa", "web@zzzz", ""):
            with pytest.raises(NotFound, match="no image"):
                versions.get(conn, bad)
        versions.add(conn, a_version("b5", "aaaa" + "1" * 60))
        with pytest.raises(NotFound, match="several"):
            versions.get(conn, "aaaa")
        assert [v.build_id for v in versions.select(conn, "web")] == ["b5", "b2", "b1"]
        assert versions.mark(conn, new.id, "deleted") and not versions.mark(conn, 10_000, "deleted")
        assert [v.build_id for v in versions.select(conn, "web")] == ["b5", "b1"]
        assert len(versions.select(conn, "web", everything=True)) == 3
        assert len(versions.select(conn, limit=2)) == 2
        assert [v.build_id for v in versions.holding(conn, "directory", other.digest)] == ["b4", "b3"]
        assert versions.holding(conn, "elsewhere", other.digest) == []


# Many builds


def test_ten_thousand_builds_are_looked_up_by_index(database: Database, database_pids: list[int]) -> None:
    rows = [
        builds._values(
            a_build(f"{n:012x}", image=f"image{n % 100}", state=BuildState.SUCCEEDED if n % 50 else BuildState.PAUSED),
            claim=True,
        )
        for n in range(10_000)
    ]
    with database.begin() as conn:
        for start in range(0, len(rows), 1000):
            conn.execute(sa.insert(tables.builds), rows[start : start + 1000])
    with database.begin() as conn:
        conn.exec_driver_sql("ANALYZE TABLE builds" if database.dialect == "mysql" else "ANALYZE builds")

    looks = {
        "newest": lambda conn: builds.select(conn),
        "of an image": lambda conn: builds.select(conn, image="image7", limit=20),
        "in a state": lambda conn: builds.select(conn, states=[BuildState.PAUSED], limit=20),
        "active": lambda conn: builds.select(conn, states=[s for s in BuildState if not s.ended], limit=20),
        "prefix": lambda conn: builds.get(conn, f"{77:012x}"),
        "holder": lambda conn: builds.holder(conn, rows[5]["key"]),
        "latest": lambda conn: builds.latest(conn, "image7"),
        "wishes": lambda conn: builds.wishes(conn, ["a" * 12, "b" * 12]),
    }
    for name, look in looks.items():
        asked: list[tuple[str, Any]] = []

        def catch(conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any, asked: list[Any] = asked) -> None:
            if statement.startswith("SELECT"):
                asked.append((statement, parameters))

        with database.read() as conn:
            sa.event.listen(database.engine, "before_cursor_execute", catch)
            with spent(*database_pids) as seconds:
                look(conn)
            took = seconds()
            sa.event.remove(database.engine, "before_cursor_execute", catch)
            for statement, parameters in asked:
                _uses_index(database.dialect, conn, name, statement, parameters)
        assert took < 0.5, name


def _uses_index(dialect: str, conn: sa.Connection, name: str, statement: str, parameters: Any) -> None:
    explain = "EXPLAIN QUERY PLAN " if dialect == "sqlite" else "EXPLAIN "
    plan = conn.exec_driver_sql(explain + statement, parameters).all()
    text = "\n".join(str(tuple(row)) for row in plan)
    if dialect == "sqlite":  # 'newest' walks the primary key backwards: a scan without a sort
        assert "SEARCH builds USING" in text or (name == "newest" and "TEMP B-TREE" not in text), f"{name}: {text}"
    elif dialect == "postgresql":
        assert "Index" in text and "Seq Scan" not in text, f"{name}: {text}"
    else:
        looked = [row._mapping for row in plan if row._mapping["table"] == "builds"]
        assert looked and all(row["key"] for row in looked), f"{name}: {text}"
