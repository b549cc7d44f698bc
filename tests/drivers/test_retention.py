"""Ended builds and all that is theirs go after their time, and what is needed stays, on all three databases."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imageflow.builds.janitor import Janitor
from imageflow.builds.retention import Retention
from imageflow.errors import NotFound
from imageflow.host.buildlog import log_path
from imageflow.model import Build, BuildState, Registered, ResourceKind, Trigger, VersionState, Wish
from imageflow.persistence import answers, builds, ledger, outbox, rebuilds, registry, versions
from imageflow.persistence.elapsed import Ages
from imageflow.persistence.flowstore import TABLES
from imageflow.persistence.tables import api_answers, api_tokens, metadata, publications, recipes
from imageflow.persistence.tables import builds as table
from tests.small.site import Site

DAY = 86400.0
OPTIONS = {"builds__retention": str(90 * DAY), "announce__targets": "http", "announce__http_url": "http://127.0.0.1:9/"}


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Site]:
    with Site(tmp_path, database=database_url, **OPTIONS) as made:
        yield made


def ended(site: Site, days: float, image: str = "web", state: BuildState = BuildState.FAILED, **more: Any) -> str:
    """A build that ended so many days ago, with its log and its console."""
    build = site.build()
    values = {"image": image, "state": state.value, "ended": time.time() - days * DAY, "claim": None, **more}
    with site.service.database.begin() as conn:
        site.service.board.withdraw_in(conn, build.id)
        site.service.flows.delete(conn, build.flow)
        conn.execute(sa.update(table).where(table.c.id == build.id).values(**values))
    site.config.logs_dir.mkdir(parents=True, exist_ok=True)
    log_path(site.config.logs_dir, build.id).write_text("a line\n")
    record = site.config.records_dir / build.id
    record.mkdir(parents=True)
    (record / "main.console.log").write_text("a console\n")
    return build.id


def version(site: Site, build_id: str, state: VersionState = VersionState.STORED, **more: Any) -> int:
    digest = build_id.ljust(64, "0")
    values = {
        "image": "web",
        "build_id": build_id,
        "key": digest,
        "digest": digest,
        "created": 1.0,
        "store": "directory",
        "path": "",
        "artifacts": [],
        "properties": {},
        "state": state,
        "since": 1.0,
        **more,
    }
    with site.service.database.begin() as conn:
        found = conn.execute(sa.insert(versions.versions).values(**values)).inserted_primary_key
    assert found is not None
    return int(found[0])


def tidy(site: Site) -> None:
    Janitor(site.service).round()


def stored(site: Site) -> set[str]:
    with site.service.database.read() as conn:
        return set(conn.scalars(sa.select(table.c.id)))


def register(
    site: Site, name: str, *images: str, created: float = 1.0, triggers: tuple[Trigger, ...] = ()
) -> Registered:
    made = Registered(
        id=0,
        name=name,
        version=0,
        digest="0" * 64,
        path=f"/recipes/{name}.yaml",
        created=created,
        images=tuple({"name": image} for image in images),
    )
    with site.service.database.begin() as conn:
        return registry.add(conn, made, [(one, "probe") for one in triggers], {})


def count(site: Site, name: str) -> int:
    with site.service.database.read() as conn:
        return int(conn.execute(sa.select(sa.func.count()).select_from(metadata.tables[name])).scalar_one())


def test_an_old_build_goes_with_all_that_is_its_own(place: Site) -> None:
    old, young = ended(place, 91), ended(place, 89)
    with place.service.database.begin() as conn:
        ledger.open(conn, old, ResourceKind.DIRECTORY, "/gone", place.config.host, 1.0)
        ledger.close(conn, old, ResourceKind.DIRECTORY, "/gone", place.config.host, 2.0)
    tidy(place)
    assert stored(place) == {young}
    assert count(place, "steps") == count(place, "resources") == 0
    assert [path.stem for path in place.config.logs_dir.iterdir()] == [young]
    assert [path.name for path in place.config.records_dir.iterdir()] == [young]
    with pytest.raises(NotFound):
        place.service.build(old)


def test_what_is_needed_stays(place: Site) -> None:
    register(place, "recipe", "web", "other")
    kept = {
        "it has a version": ended(place, 400, state=BuildState.SUCCEEDED),
        "its version is lost": ended(place, 400, state=BuildState.SUCCEEDED),
        "its version is published elsewhere": ended(place, 400, state=BuildState.SUCCEEDED),
        "something of it is left": ended(place, 400),
        "the newest successful one": ended(place, 400, state=BuildState.SUCCEEDED),
        "the newest one": ended(place, 400),
        "of another image": ended(place, 400, image="other"),
    }
    version(place, kept["it has a version"])
    version(place, kept["its version is lost"], VersionState.MISSING)
    deleted = version(place, kept["its version is published elsewhere"], VersionState.DELETED)
    with place.service.database.begin() as conn:
        state = {
            "wish": "removed",
            "state": "waiting",
            "attempts": 0,
            "refused": 0,
            "next": 0.0,
            "until": 0.0,
            "since": 1.0,
        }
        conn.execute(sa.insert(publications).values(version_id=deleted, target="mirror", **state))
        ledger.open(conn, kept["something of it is left"], ResourceKind.DIRECTORY, "/left", "another-host", time.time())
    paused = place.build()
    with place.service.database.begin() as conn:
        builds.change(conn, paused.id, BuildState.PAUSED, paused=time.time(), created=1.0, wish=None)
    for _ in range(3):
        tidy(place)
    assert stored(place) == {*kept.values(), paused.id}
    assert {path.stem for path in place.config.logs_dir.iterdir()} == set(kept.values())


def test_of_an_image_that_is_in_no_recipe_and_has_no_version_nothing_stays(place: Site) -> None:
    ended(place, 91, state=BuildState.SUCCEEDED)
    tidy(place)
    assert stored(place) == set()


def test_there_are_only_so_many_builds(tmp_path: Path, database_url: str) -> None:
    with Site(tmp_path, database=database_url, builds__max_count="5") as place:
        made = [ended(place, days) for days in range(20, 0, -1)]
        tidy(place)
        assert stored(place) == set(made[-5:])
        ended(place, 0)
        tidy(place)
        assert len(stored(place)) == 5


def test_logs_are_only_so_large_together(tmp_path: Path) -> None:
    with Site(tmp_path, builds__max_logs="0.01") as place:  # 10 MiB
        made = [ended(place, 1) for _ in range(4)]
        busy = place.build()
        for age, build_id in enumerate([*made, busy.id]):
            file = log_path(place.config.logs_dir, build_id)
            file.write_bytes(b"x" * (4 << 20))
            os.utime(file, (time.time() - 1000 + age, time.time() - 1000 + age))
            if build_id != busy.id:
                console = place.config.records_dir / build_id / "main.console.log"
                os.utime(console, (time.time() - 1000 + age, time.time() - 1000 + age))
        tidy(place)
        assert {path.stem for path in place.config.logs_dir.iterdir()} == {made[-1], busy.id}, (
            "the newest, and those in use"
        )
        assert stored(place) == {*made, busy.id}


def test_logs_of_builds_that_another_host_removed_go_as_well(place: Site) -> None:
    log = log_path(place.config.logs_dir, "0123456789ab")
    place.config.logs_dir.mkdir(parents=True, exist_ok=True)
    log.write_text("a line\n")
    Retention(place.service, Ages(place.service.database, "here")).round()
    assert log.exists(), "its build may be about to begin"
    os.utime(log, (time.time() - 7200, time.time() - 7200))
    Retention(place.service, Ages(place.service.database, "here")).round()
    assert not log.exists()


def test_versions_that_were_deleted_are_forgotten_with_their_builds(place: Site) -> None:
    register(place, "recipe", "web", "child")
    base, other = ended(place, 100, state=BuildState.SUCCEEDED), ended(place, 100, state=BuildState.SUCCEEDED)
    used, unused = version(place, base, VersionState.DELETED), version(place, other, VersionState.DELETED)
    ended(place, 95, state=BuildState.SUCCEEDED)  # the newest one of `web`
    child = ended(place, 95, "child", BuildState.SUCCEEDED, pins={"base:image:web": base.ljust(64, "0")})
    tidy(place)
    assert child in stored(place) and base not in stored(place) and other not in stored(place)
    with place.service.database.read() as conn:
        left = set(conn.scalars(sa.select(versions.versions.c.id)))
    assert left == {used} and unused not in left, "what a build that stays was made from is still compared with"


def test_old_versions_of_recipes_go_but_not_those_in_use(place: Site) -> None:
    old = time.time() - 400 * DAY
    for _ in range(3):
        register(place, "web", "web", created=old)
    register(place, "removed", "gone", created=old)
    register(place, "used", "used", created=old)
    with place.service.database.begin() as conn:
        registry.withdraw(conn, "removed")
        registry.withdraw(conn, "used")
    running = place.build()
    with place.service.database.begin() as conn:
        builds.change(conn, running.id, folder="/recipes/used")
        conn.execute(sa.update(recipes).where(recipes.c.name == "used").values(path="/recipes/used/used.yaml"))
    tidy(place)
    with place.service.database.read() as conn:
        left = [(one.name, one.version) for one in registry.select(conn, everything=True)]
    assert left == [("used", 1), ("web", 3)]


def test_what_lost_its_owner_goes(place: Site) -> None:
    with place.service.database.begin() as conn:
        rebuilds.ask(conn, "gone", time.time() - 100 * DAY)
        rebuilds.close(conn, "gone")
        rebuilds.ask(conn, "waiting", time.time() - 100 * DAY)
        registry.learn(conn, "gone", {"git:acme/infra#refs/heads/main": "a" * 40}, 1)
    book = place.build()
    with place.service.database.begin() as conn:
        place.service.board.withdraw_in(conn, book.id)
        conn.execute(sa.delete(table).where(table.c.id == book.id))
    tidy(place)
    with place.service.database.read() as conn:
        assert [one.image for one in rebuilds.select(conn)] == ["waiting"]
        assert conn.execute(sa.select(sa.func.count()).select_from(TABLES.logbooks)).scalar_one() == 0
    assert count(place, "rebuilds") == 1 and count(place, "inputs") == 0


def test_announcements_go_that_nobody_sends_and_nobody_replays(place: Site) -> None:
    """Also when their target is not configured any more, and so has no sender."""
    build = Build(
        id=ended(place, 1),
        image="web",
        method="small",
        state=BuildState.FAILED,
        reason="",
        key="",
        flow="",
        created=1.0,
        wish=Wish.ABORT,
    )
    with place.service.database.begin() as conn:
        outbox.announce_build(conn, ["http"], "error", build)
    tidy(place)
    assert count(place, "outbox") == count(place, "deliveries") == 1
    age(place, 4)
    tidy(place)
    with place.service.database.read() as conn:
        [dead] = outbox.select(conn)
    assert dead.state == "dead" and count(place, "outbox") == 1
    age(place, 32)
    tidy(place)
    assert count(place, "outbox") == 1
    age(place, 34)
    tidy(place)
    assert count(place, "outbox") == count(place, "deliveries") == 0


def age(site: Site, days: float) -> None:
    deliveries = metadata.tables["deliveries"]
    with site.service.database.begin() as conn:
        conn.execute(sa.update(deliveries).values(since=site.service.database.now() - days * DAY))


def test_tokens_that_ended_long_ago_go(place: Site) -> None:
    past = {
        "valid": {},
        "for ever": {"expires": None},
        "expired lately": {"expires": time.time() - 89 * DAY},
        "expired": {"expires": time.time() - 91 * DAY},
        "revoked lately": {"revoked": time.time() - 89 * DAY},
        "revoked": {"revoked": time.time() - 91 * DAY},
    }
    for name, values in past.items():
        _, made = place.service.tokens.create(name, "reader")
        if values:
            with place.service.database.begin() as conn:
                conn.execute(sa.update(api_tokens).where(api_tokens.c.id == made.id).values(**values))
    tidy(place)
    assert {one.name for one in place.service.tokens.select()} == past.keys() - {"expired", "revoked"}


def answered(site: Site, **ages: float) -> None:
    """Answers to requests with these keys, so many days old."""
    for key, days in ages.items():
        with site.service.database.begin() as conn:
            answers.keep(conn, "default", key, answers.Answered("0" * 64, f"/v1/builds/{key}", "{}"))
            conn.execute(
                sa.update(api_answers)
                .where(api_answers.c.location == f"/v1/builds/{key}")
                .values(created=time.time() - days * DAY)
            )


def known(site: Site, *keys: str) -> set[str]:
    with site.service.database.read() as conn:
        return {key for key in keys if answers.find(conn, "default", key) is not None}


def test_answers_go_after_a_day(place: Site) -> None:
    answered(place, old=1.1, young=0.9)
    tidy(place)
    assert known(place, "old", "young") == {"young"}


def test_answers_have_a_number(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST", 2)
    answered(place, first=0.4, second=0.3, third=0.2, fourth=0.1)
    tidy(place)
    assert known(place, "first", "second", "third", "fourth") == {"third", "fourth"}


def test_a_clock_that_ran_ahead_takes_no_token_and_no_answer(place: Site) -> None:
    """Its host knows how long it has been up: what is old by the wrong clock only stays."""
    place.service.tokens.create("one", "reader")
    answered(place, one=0.0)
    retention = Retention(place.service, Ages(place.service.database, place.config.host))
    retention.round()
    ahead = Ages(place.service.database, place.config.host, wall=lambda: time.time() + 400 * DAY)
    Retention(place.service, ahead).round()
    assert [one.name for one in place.service.tokens.select()] == ["one"]
    assert known(place, "one") == {"one"}


def test_looking_for_orphaned_flows_reads_each_build_once(tmp_path: Path) -> None:
    """SQLite's own steps are counted: four times as many builds are some four times as many, not sixteen."""
    steps = []
    for number in (500, 2000):
        with Site(tmp_path / str(number)) as site:
            ids = [f"{one:036x}" for one in range(number)]
            first = site.build()
            with site.service.database.begin() as conn:
                row = dict(conn.execute(sa.select(table).where(table.c.id == first.id)).one()._mapping)
                same = row | {"claim": None}
                del same["seq"]
                conn.execute(sa.insert(table), [same | {"id": id[-12:], "flow": id} for id in ids])
                conn.execute(sa.insert(TABLES.logbooks), [{"uuid": id, "name": "b", "meta": None} for id in ids])
            ticks = [0]

            def tick(ticks: list[int] = ticks) -> None:
                ticks[0] += 1

            with site.service.database.begin() as conn:
                conn.connection.driver_connection.set_progress_handler(tick, 1000)
                assert site.service.flows.forget_orphans(conn) == 0
                conn.connection.driver_connection.set_progress_handler(None, 0)
            steps.append(ticks[0])
    assert steps[1] < 8 * max(1, steps[0]), steps
