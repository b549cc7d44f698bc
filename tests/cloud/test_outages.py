"""A service of the cloud is away for a while, at any moment of a build: it ends right without a person."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.cloud import Cloud
from tests.cloud.nova_site import NovaSite
from tests.flows.test_crash_boot import recipe

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1200)]
SERVICES = ["nova-api", "glance-api", "rabbit"]
MOMENTS = ["fetch-base", "boot-machine", "snapshot-machine", "publish-image"]
CASES = [(service, moment) for service in SERVICES for moment in MOMENTS]


@pytest.fixture
def site(cloud: Cloud, nothing_left: None, tmp_path: Path) -> Iterator[NovaSite]:
    # What is asked of Nova while its broker comes back may get lost: then the server is given up, and made once more.
    with NovaSite(cloud, tmp_path, store="glance", patience=300.0, nova__build_timeout="150") as site:
        yield site


def away(site: NovaSite, service: str, step: str, seconds: float) -> None:
    """A build whose cloud is without a service for so long, from the moment on that this step begins."""
    [submission] = site.service.submit(recipe(site.folder))
    build = submission.build
    site.worker()
    site.await_that(lambda: site.running(build, step), 300)
    with site.cloud.without(service):
        time.sleep(seconds)  # that is what is tested
    site.await_over(build, seconds=600)
    site.done(build)
    lost = site.log(build).count("never received it")  # by a host: Nova's words went away with its broker
    assert lost == 0 or service == "rabbit", site.log(build)
    assert max(attempt for _step, attempt, _state in site.states(build)) == 1 + lost, site.states(build)
    site.nothing_left()


@pytest.mark.sliced(of=100, group="killed on the cloud")
@pytest.mark.parametrize(("service", "step"), CASES)
def test_away_for_twenty_seconds(site: NovaSite, service: str, step: str) -> None:
    away(site, service, step, 20.0)


@pytest.mark.slow
@pytest.mark.parametrize(("service", "step"), CASES)
def test_away_for_a_minute(site: NovaSite, service: str, step: str) -> None:
    away(site, service, step, 60.0)
