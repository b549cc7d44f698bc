"""What builds wait for: reverts for nothing, machines without a worker, and paused builds keep no others from theirs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow.builds.janitor import Janitor
from imageflow.compute import MachineState
from imageflow.events.inbox import SqlInbox
from imageflow.host import alive
from imageflow.model import BuildState, Event, Verdict
from imageflow.persistence import events, observations, tables
from imageflow.persistence.elapsed import uptime
from imageflow.persistence.tables import jobs
from imageflow.rebuilds.dispatcher import Dispatcher
from tests.small.machined import MachinedSite
from tests.small.site import Site


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[MachinedSite]:
    """One place for builds, and room for four machines."""
    with MachinedSite(
        tmp_path,
        database_url,
        max_builds="1",
        qemu__max_vcpus="4",
        qemu__max_memory="100000",
        builds__park_after="3600",
    ) as made:
        yield made


def test_a_revert_waits_for_no_place(site: MachinedSite) -> None:
    """The one place is taken, and many builds stand before it."""
    with site.conducted():
        [paused] = site.paused(1)
        busy = site.machined()
        site.trace.set(f"slow-{busy.id}")
        site.await_that(lambda: site.trace.read(build=busy.id))
        others = [site.build() for _ in range(60)]  # more than a conductor looks at
        site.service.abort(paused.id)
        site.await_state(paused, BuildState.ABORTED, seconds=10)
        site.service.cancel(others[-1].id)
        assert site.service.build(others[-1].id).state is BuildState.CANCELLED
        assert site.service.build(busy.id).state is BuildState.RUNNING
        site.await_that(lambda: "1 builds run on 1 conductor; 58 before it" in str(site.service.waits(others[-2].id)))
        site.service.cancel(busy.id)
        site.await_state(busy, BuildState.CANCELLED, seconds=10)


def test_a_build_that_was_asked_to_end_before_reverts_came_first(site: MachinedSite) -> None:
    with site.conducted():
        [paused] = site.paused(1)
    site.service.abort(paused.id)
    busy = site.machined()
    site.trace.set(f"slow-{busy.id}")
    with site.service.database.begin() as conn:  # as an imageflow wrote it that did not know this
        conn.execute(sa.update(jobs).where(jobs.c.name == paused.id).values(priority=2, seq=jobs.c.seq + 1000))
    with site.conducted():
        site.await_state(paused, BuildState.ABORTED, seconds=10)
        site.service.cancel(busy.id)
        site.await_state(busy, BuildState.CANCELLED, seconds=10)


def test_a_build_that_waits_for_room_holds_no_place(site: MachinedSite) -> None:
    """Four machines of paused builds take all of the processors."""
    with site.conducted():
        paused = site.paused(4)
        waiting = site.machined()
        why = site.await_that(
            lambda: "room" in (site.service.waits(waiting.id) or "") and site.service.waits(waiting.id)
        )
        assert "room for its machine: 4 vcpus" in why and f"{paused[0].id}-main" in why
        queued = site.service.build(waiting.id)
        assert (queued.state, queued.step, queued.error) == (BuildState.QUEUED, "boot", None)
        assert site.states(waiting) == []  # its step has not begun
        other = site.build()
        site.await_state(other, BuildState.SUCCEEDED, seconds=20)
        site.service.resume(paused[1].id)  # its machine runs
        site.await_state(paused[1], BuildState.SUCCEEDED, seconds=10)
        site.await_state(waiting, BuildState.SUCCEEDED, seconds=10)
        assert site.states(waiting)[0] == ("boot", 1, "succeeded")
        for build in paused:
            if build is not paused[1]:
                site.service.abort(build.id)
                site.await_state(build, BuildState.ABORTED, seconds=10)
        assert site.service.compute.list() == []
        assert site.service.resources() == []


def test_builds_that_wait_for_room_go_on_in_their_order(site: MachinedSite) -> None:
    """A large one is not overtaken for ever by small ones, and waiting counts for no limit of time."""
    with site.conducted():
        paused = site.paused(4)
        large = site.machined(vcpus=3)
        site.await_that(lambda: "room" in (site.service.waits(large.id) or ""))
        small = site.machined()
        site.await_that(lambda: "1 came before it" in (site.service.waits(small.id) or ""), 30)
        site.service.abort(paused[0].id)
        site.await_state(paused[0], BuildState.ABORTED)
        time.sleep(2.5)  # two looks for room
        assert {site.service.build(build.id).state for build in (large, small)} == {BuildState.QUEUED}
        for build in paused[1:3]:
            site.service.abort(build.id)
        for build in (large, small):
            site.await_state(build, BuildState.SUCCEEDED, seconds=20)
        assert site.service.build(large.id).ended < site.service.build(small.id).ended  # type: ignore[operator]
        site.service.abort(paused[3].id)
        site.await_state(paused[3], BuildState.ABORTED)


def test_a_build_that_waits_for_room_can_be_ended(site: MachinedSite) -> None:
    with site.conducted():
        paused = site.paused(4)
        first, second = site.machined(), site.machined()
        site.await_that(lambda: "1 came before it" in (site.service.waits(second.id) or ""), 30)
        site.service.cancel(first.id)
        site.await_state(first, BuildState.CANCELLED, seconds=10)
        site.service.abort(paused[0].id)
        site.await_state(second, BuildState.SUCCEEDED, seconds=20)


def test_what_waits_for_room_waits_on_after_a_restart(site: MachinedSite) -> None:
    with site.conducted():
        paused = site.paused(4)
        waiting = site.machined()
        site.await_that(lambda: "room" in (site.service.waits(waiting.id) or ""))
    assert "room for its machine" in (site.service.waits(waiting.id) or "")
    with site.conducted():
        site.service.abort(paused[0].id)
        site.await_state(waiting, BuildState.SUCCEEDED, seconds=20)


def test_the_machines_of_paused_builds_are_put_away_and_come_back(tmp_path: Path) -> None:
    """Nobody has to abort anything; what they hold comes back when they go on, and waits if there is no room."""
    with MachinedSite(
        tmp_path, max_builds="1", qemu__max_vcpus="4", qemu__max_memory="100000", builds__park_after="1", janitor="0.2"
    ) as site:
        with site.conducted():
            paused = site.paused(4)
            names = [f"{build.id}-main" for build in paused]
            waiting = site.machined(vcpus=4)
            site.await_state(waiting, BuildState.SUCCEEDED, seconds=20)
            assert {site.service.compute.state(name) for name in names} == {MachineState.PARKED}
            assert "is put away" in site.service.log_path(paused[0].id).read_text()
            busy = site.machined(vcpus=4)
            site.trace.set(f"slow-{busy.id}")
            site.await_that(lambda: site.trace.read(build=busy.id))
            site.service.resume(paused[0].id)
            site.trace.unset(f"slow-{busy.id}")
            site.await_state(paused[0], BuildState.SUCCEEDED, seconds=20)
            assert [one["state"] for one in site.trace.read(build=paused[0].id)] == ["running", "running"]
            assert site.states(paused[0])[-1] == ("work", 2, "succeeded")
            for build in paused[1:]:
                site.service.abort(build.id)
                site.await_state(build, BuildState.ABORTED, seconds=10)
        assert site.service.compute.list() == []


def test_a_build_that_goes_on_at_that_moment_keeps_its_machine(site: MachinedSite) -> None:
    with site.conducted():
        [paused] = site.paused(1)
        site.trace.set(f"slow-{paused.id}")
        site.service.resume(paused.id)
        site.await_that(lambda: len(site.trace.read(build=paused.id)) == 2)
        from imageflow.builds import parking

        parking.put_away(site.service, [paused.id])
        assert site.service.compute.state(f"{paused.id}-main") is MachineState.RUNNING
        site.trace.unset(f"slow-{paused.id}")
        site.await_state(paused, BuildState.SUCCEEDED)


def test_nobody_serves(site: MachinedSite) -> None:
    build = site.machined()
    assert site.service.waits(build.id) == "a conductor: none is running ('imageflow serve')"


def test_an_error_with_text_that_no_database_holds(tmp_path: Path, database_url: str) -> None:
    """It reaches our tables, and TaskFlow's."""
    with MachinedSite(tmp_path, database_url) as site, site.conducted():
        (site.trace.folder / "fail-boot").write_bytes("a\0b \ud83d c".encode(errors="surrogatepass"))
        build = site.build()
        paused = site.await_state(build, BuildState.PAUSED, BuildState.ABORTED, seconds=30)
        assert (paused.state, paused.step) == (BuildState.PAUSED, "boot")
        site.trace.unset("fail-boot")
        site.service.resume(build.id)
        site.await_state(build, BuildState.SUCCEEDED, seconds=30)


# -- clocks ------------------------------------------------------------------------------------------

AHEAD = 40 * 86400.0


def went_ahead(site: Site) -> None:
    """The clock of this host goes forty days ahead now: everything that is there was written before."""
    offset = time.time() - uptime()
    clock = {"boot": alive.boot_id(), "offset": offset - AHEAD, "time": time.time() - AHEAD, "jumps": []}
    with site.service.database.begin() as conn:
        observations.see(conn, f"imageflow: clocks of {site.config.host}", json.dumps({"host": clock}), 0.0)


def test_a_clock_that_goes_ahead_ends_no_paused_build(site: MachinedSite) -> None:
    with site.conducted():
        [paused] = site.paused(1)
    went_ahead(site)
    with site.service.database.begin() as conn:
        conn.execute(sa.update(tables.builds).values(paused=tables.builds.c.paused - AHEAD))
    janitor = Janitor(site.service)
    for _ in range(2):
        janitor.round()
        assert site.service.build(paused.id).state is BuildState.PAUSED
    with site.service.database.begin() as conn:
        conn.execute(sa.delete(tables.observations))  # it really is that old
    janitor.round()
    assert site.service.build(paused.id).state is BuildState.REVERTING


def test_a_clock_that_goes_ahead_removes_no_events(site: MachinedSite) -> None:
    inbox = SqlInbox(site.service.database)
    went_ahead(site)
    with site.service.database.begin() as conn:
        then = time.time() - AHEAD
        events.add(conn, [Event("s", "i", "t")], now=then, listener="http", verdict=Verdict.NO_TRIGGER)

    def sweep() -> int:
        parts = site.service
        dispatcher = Dispatcher(site.config, parts.database, parts.submitter, parts.checkouts, inbox)
        dispatcher._sweep()
        with parts.database.read() as conn:
            return events.last(conn)

    assert sweep() == 1
    with site.service.database.begin() as conn:
        conn.execute(sa.delete(tables.observations))
    assert sweep() == 0


def test_a_killed_conductor_is_dead_whatever_its_lease_says(tmp_path: Path) -> None:
    """The clock was set back by two hours since; or it had been forty days ahead for a moment."""
    with Site(tmp_path, lease=12.0) as site:
        build = site.build()
        site.trace.set("slow-configure", "600")
        worker = site.worker()
        site.await_that(lambda: "configure" in site.trace.executed(build.id))
        assert site.service.waits(build.id) is None and len(site.service.conductors()) == 1
        worker.kill()
        worker.wait()
        with site.service.database.begin() as conn:
            for table, seconds in ((tables.jobs, 7200.0), (tables.conductors, AHEAD)):
                conn.execute(sa.update(table).values(until=table.c.until + seconds))
        assert site.service.conductors() == []
        told = site.service.waits(build.id) or ""
        assert "its process is gone" in told and "none is running that could take it over" in told
        assert site.service.build(build.id).conductor in told  # type: ignore[operator]
        assert list(site.service.silent(site.service.builds())) == [build.id]
        site.trace.unset("slow-configure")
        site.worker()
        site.await_state(build, BuildState.SUCCEEDED, seconds=20)


def test_a_conductor_that_is_silent_is_named(tmp_path: Path) -> None:
    """It is stopped, not dead; or on another host."""
    with Site(tmp_path, lease=2.0) as site:
        build = site.build()
        site.trace.set("slow-configure", "600")
        worker = site.worker()
        site.await_that(lambda: "configure" in site.trace.executed(build.id))
        site.freeze(worker)
        told = site.await_that(lambda: site.service.waits(build.id), 20)
        assert str(site.service.build(build.id).conductor) in told and "not heard of for" in told
        assert site.service.build(build.id).state is BuildState.RUNNING
        assert build.id in site.service.silent(site.service.builds())
