"""Processes that follow a repository are killed -9 while commits come: each change is registered and built once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.fetch import git
from imageflow.model import BuildState, Verdict
from imageflow.registry import change_events
from tests.chaos.test_events import all_is_answered
from tests.small.forge import Forge
from tests.small.site import Site

COMMITS = 12


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    elements = Path(__file__).parents[1] / "recipes" / "elements"
    options = {
        "triggers__debounce": "0",
        "triggers__max_per_minute": "1000",
        "dib__elements_path": str(elements),
        "listeners__enabled": "",
        "git__every": "1",
    }
    (tmp_path / "site").mkdir()
    with Site(tmp_path / "site", database=database_url, **options) as site:
        yield site


@pytest.mark.sliced(of=3)  # one database, of the three
def test_two_that_follow_are_killed_at_random(site: Site, tmp_path: Path) -> None:
    forge, dice = Forge(tmp_path / "forge"), random.Random(4)
    for name in ("web", "db"):
        forge.image(name)
    forge.push()
    site.service.git_recipes.add("recipes", forge.url)

    workers = [site.worker(module="tests.small.dispatch_worker") for _ in range(2)]
    commit = ""
    for number in range(COMMITS):
        forge.image("web", motd=str(number))
        commit = forge.push()
        if number % 3 == 0:
            site.await_that(lambda commit=commit: site.service.git_recipes.origins()[0].head == commit, seconds=60)
        victim = dice.randrange(2)
        workers[victim].kill()
        workers[victim].wait()
        workers[victim] = site.worker(module="tests.small.dispatch_worker")
    site.await_that(lambda: site.service.git_recipes.origins()[0].head == commit, seconds=120)
    site.await_that(lambda: all_is_answered(site), seconds=120)
    for worker in workers:
        worker.terminate()
        worker.wait()
    web = [one for one in site.service.recipes.registered(everything=True) if one.name == "infra/web"]
    told = site.service.events.select(type=change_events.CHANGED, limit=1000)
    assert Counter(event.data["version"] for event in told) == {one.version: 1 for one in web if one.version > 1}
    assert {event.verdict for event in told} <= {Verdict.MATCHED, Verdict.SUPERSEDED}
    made = site.service.builds(limit=1000)
    assert {build.image for build in made} == {"web"}
    succeeded = Counter(build.key for build in made if build.state is BuildState.SUCCEEDED)
    assert set(succeeded.values()) == {1}
    assert {build.state for build in made} <= {BuildState.SUCCEEDED, BuildState.SUPERSEDED}
    newest = next(build for build in made if build.state is BuildState.SUCCEEDED)
    assert git.placed(Path(newest.folder)) == git.Placed(site.config.checkouts_dir, git.slug(forge.url), commit)
