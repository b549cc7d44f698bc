"""From where events come to the builds that they bring about: clocks, storms of duplicates, a real bus."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imageflow.listeners import Surroundings
from imageflow.listeners.schedule import Schedule
from imageflow.model import BuildState, Outcome
from imageflow.registry.watched import SqlWatched
from tests.integration.broker_site import Bus, sample
from tests.servers.services import RabbitMQ
from tests.small.site import Site
from tests.small.yard import PUSH, Yard, open_yard

DAY = 86400.0
NOON = datetime.datetime(2026, 5, 1, 12, 0, tzinfo=datetime.UTC).timestamp()
NIGHTLY = """
images:
  - name: a
    method: dib
    dib: {elements: [tiny], skip-base: true}
    configure: [{files: [{path: /etc/motd, source: motd}]}]
    on: [{schedule: "0 3 * * *"}, {event: git.push}]
"""
ON_BASE = """
images:
  - name: a
    method: dib
    dib: {elements: [tiny], skip-base: true}
    on: [{event: glance.image.activate, where: {name: debian-base}}]
  - name: other
    method: dib
    dib: {elements: [tiny], skip-base: true}
    on: [{event: glance.image.activate, where: {name: another}}]
"""


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    with open_yard(tmp_path, "", monkeypatch) as yard:
        yield yard


def test_down_over_three_nights_is_one_build(yard: Yard) -> None:
    yard.register(NIGHTLY)
    watched = SqlWatched(yard.service.database)
    around = Surroundings(yard.service.config, yard.inbox, watched)

    def look(now: float) -> None:
        """A process that has just been started looks at its clock."""
        Schedule(around, lambda: now).fire(watched.triggers("schedule"))

    look(NOON)
    assert yard.settle() == []
    look(NOON + 3 * DAY)
    assert yard.settle() == ["a"]
    look(NOON + DAY)  # the clock is set back
    assert yard.settle() == []
    look(NOON + 4 * DAY)
    assert yard.settle() == []
    newest, *_ = yard.service.events.select(type="imageflow.schedule")
    assert yard.outcomes(newest.seq) == {"a": Outcome.REUSED}
    (yard.site.folder / "motd").write_text("changed")
    look(NOON + 5 * DAY)
    assert yard.settle() == ["a"]


def test_a_thousand_duplicates_are_one_build(yard: Yard) -> None:
    yard.register(NIGHTLY)

    def send(_: int) -> int:
        return sum(receipt.new for _ in range(125) for receipt in yard.inbox.receive([PUSH], listener="http"))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(send, range(8))) == 1
    assert yard.settle() == ["a"]
    assert [event.deliveries for event in yard.service.events.select(type="git.push")] == [1000]


def test_a_notification_of_glance_builds_what_stands_on_that_image(tmp_path: Path, broker: RabbitMQ) -> None:
    """A real RabbitMQ, a real notifier of oslo.messaging, a process that serves."""
    elements = Path(__file__).parents[1] / "recipes" / "elements"
    options = {
        "listeners__enabled": "notifications",
        "notifications__transport_url": broker.bus,
        "dib__elements_path": str(elements),
        "triggers__debounce": "0",
    }
    with Site(tmp_path, **options) as site:
        (tmp_path / "recipe.yaml").write_text(ON_BASE)
        site.service.recipes.add(tmp_path / "recipe.yaml")
        site.worker(module="tests.small.dispatch_worker")
        log = tmp_path / "workers.log"
        site.await_that(lambda: log.exists() and "listener notifications" in log.read_text())
        uploaded = [message | {"ctxt": {"auth_token": "secret-of-the-context"}} for message in sample("glance-upload")]
        Bus(broker.bus).say(*uploaded)
        [build] = site.await_that(lambda: site.service.builds(states=[BuildState.SUCCEEDED]), seconds=60)
        assert build.image == "a" and "glance.image.activate" in build.reason
        assert [one.image for one in site.service.builds()] == ["a"]
        came = site.service.events.select()
        assert "glance.image.activate" in [event.type for event in came]
        assert "secret-of-the-context" not in json.dumps([event.data for event in came])
