"""Processes that serve are killed -9 at the worst moments: every event is acted on, and none twice."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imageflow.events.inbox import SqlInbox
from imageflow.model import BuildState, Event, Outcome, Verdict
from imageflow.persistence import events, reactions
from tests.small.flow import Trace
from tests.small.site import Site, Worker

IMAGES = 6
PUSH = Event("https://git.example/acme/infra", "1", "git.push", data={"repository": "infra"})
RECIPE = "images:\n" + "".join(
    f"  - name: i{n}\n    method: dib\n    dib: {{elements: [tiny], skip-base: true}}\n"
    f"    configure: [{{files: [{{path: /etc/motd, source: motd}}]}}]\n    on: [{{event: git.push}}]\n"
    for n in range(IMAGES)
)
CHILD = "  - {name: child, method: boot, base: {image: i0}, on: [{image: i0}]}\n"
PLACES = ("received", "matching", "matched", "taken", "pinned", "enlisted", "submitted")


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    elements = Path(__file__).parents[1] / "recipes" / "elements"
    options = {
        "triggers__debounce": "0",
        "triggers__max_per_minute": "1000",
        "dib__elements_path": str(elements),
        "listeners__enabled": "",
    }
    with Site(tmp_path, database=database_url, **options) as site:
        (tmp_path / "motd").write_text("0")
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(RECIPE + CHILD)
        site.service.recipes.add(recipe)
        yield site


def serve(site: Site, *more: str) -> Worker:
    return site.worker(*more, module="tests.small.dispatch_worker")


def all_is_answered(site: Site) -> bool:
    """Nothing waits: no event, no rebuild, no build, and none went from one to the next while we looked."""
    before = len(site.service.builds(limit=10000))
    if site.service.board.job_count:
        return False
    with site.service.database.read() as conn:
        waiting = bool(events.waiting(conn)) or bool(site.service.events.rebuilds())
    return not waiting and not site.service.board.job_count and len(site.service.builds(limit=10000)) == before


def check(site: Site, sent: list[int]) -> None:
    """Each event has its verdict and one reaction an image; each build came to be once."""
    with site.service.database.read() as conn:
        answers = reactions.of_events(conn, sent)
    assert Counter(one.event for one in answers) == dict.fromkeys(sent, IMAGES)
    assert {one.outcome for one in answers} <= {Outcome.CREATED, Outcome.JOINED, Outcome.REUSED, Outcome.SUPERSEDED}
    for seq in sent:
        assert site.service.events.get(seq)[0].verdict in (Verdict.MATCHED, Verdict.SUPERSEDED)
    made = site.service.builds(limit=10000)
    assert {build.state for build in made} <= {BuildState.SUCCEEDED, BuildState.SUPERSEDED}
    succeeded = Counter(build.key for build in made if build.state is BuildState.SUCCEEDED)
    assert set(succeeded.values()) == {1}, "the same inputs were built twice"
    ran = Counter(record["build"] for record in Trace(site.folder / "trace").read(ended=True))
    assert ran.keys() == {build.id for build in made if build.state is BuildState.SUCCEEDED}


@pytest.mark.sliced
@pytest.mark.parametrize("place", PLACES)
def test_a_death_loses_nothing_and_doubles_nothing(site: Site, place: str) -> None:
    [receipt] = SqlInbox(site.service.database).receive([PUSH], listener="http")
    assert serve(site, "die", place).wait() == -9
    with site.service.database.read() as conn:
        created = {one.build_id for one in reactions.of_events(conn, [receipt.event.seq])} - {None}
    assert created == {build.id for build in site.service.builds(limit=100)}, "a build and what asked for it are one"
    worker = serve(site)
    site.await_that(lambda: all_is_answered(site), seconds=150)
    worker.terminate()
    check(site, [receipt.event.seq])
    made = site.service.builds(limit=100)
    assert sorted(build.image for build in made) == ["child", *(f"i{n}" for n in range(IMAGES))]


@pytest.mark.sliced(of=3)  # one database, of the three
def test_two_that_serve_are_killed_at_random(site: Site) -> None:
    """Events come all the time, inputs change, one of two processes dies every second or so."""
    inbox, sent, dice = SqlInbox(site.service.database), [], random.Random(4)
    workers = [serve(site), serve(site)]
    for number in range(60):
        if number % 7 == 0:
            (site.folder / "motd").write_text(str(number))
        batch = [replace(PUSH, id=f"{number}-{one}") for one in range(dice.randint(1, 4))]
        sent += [receipt.event.seq for receipt in inbox.receive(batch, listener="http") if receipt.new]
        assert not any(receipt.new for receipt in inbox.receive(batch, listener="http"))
        if number % 10 == 9:
            victim = dice.randrange(2)
            workers[victim].kill()
            workers[victim].wait()
            workers[victim] = serve(site)
        time.sleep(0.1)  # the pace of events, not a wait for something
    site.await_that(lambda: all_is_answered(site), seconds=200)
    for worker in workers:
        worker.terminate()
    check(site, sent)
