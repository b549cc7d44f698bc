"""kill -9 of the worker at every boundary and inside every step of the flow boot, on servers of a real cloud."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.model import Build, BuildState
from tests.cloud.cloud import Cloud
from tests.cloud.nova_site import NovaSite
from tests.flows.test_crash_boot import STEPS, recipe

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1200)]
IN_ALL = [
    "in:STEP:0",
    "in:STEP:0.4",
    "in:STEP:1.5",
    "after:STEP",
]  # one worker for each step of one build, that dies in it
ANSWERED = [  # what the cloud is asked for by a build, in this order: each has one worker that dies when it is done
    "half PUT .*/file",
    "PUT .*/file",
    "POST .*/os-keypairs",
    "POST /servers server",
    "POST .*/action os-stop",
    "POST .*/action createImage",
    "PATCH /v2/images/",
    "GET .*/file",
    "POST /servers server",  # to verify the image
    "DELETE /servers/",
    "DELETE .*/os-keypairs/",
    "DELETE /servers/",
    "half PUT .*/file",  # to publish it
    "PUT .*/file",
    "PATCH /v2/images/",
]
LONG = ["fetch-base", "boot-machine", "await-ssh", "seal", "stop-machine", "snapshot-machine", "verify-image"]
LATER = [f"in:{step}:{seconds}" for step in [*LONG, "delete-machine", "publish-image"] for seconds in (3, 6, 10)]
REVERTS = [
    (killed, reverted)
    for killed in ["fetch-base", "boot-machine", "configure-02-files", "seal", "snapshot-machine", "publish-image"]
    for reverted in ["revert:boot-machine", "revert:prepare-machine"]
]


@pytest.fixture
def site(cloud: Cloud, nothing_left: None, tmp_path: Path) -> Iterator[NovaSite]:
    with NovaSite(cloud, tmp_path, store="glance") as site:
        yield site


def create(site: NovaSite) -> Build:
    [submission] = site.service.submit(recipe(site.folder))
    assert submission.verdict == "created", submission
    return submission.build


@pytest.mark.sliced(of=10, group="long on the cloud")
@pytest.mark.parametrize("moment", IN_ALL)
def test_killed_in_every_step_of_one_build(site: NovaSite, moment: str) -> None:
    """All workers have the same server: it boots once."""
    build = create(site)
    for step in STEPS:
        site.bomb(moment.replace("STEP", step))
    site.run_worker(seconds=300)
    site.done(build)
    site.one_server(build)
    site.nothing_left()


@pytest.mark.slow
def test_killed_after_each_of_its_requests_to_the_cloud(site: NovaSite) -> None:
    build = create(site)
    for moment in ANSWERED:
        site.bomb(moment, module="tests.cloud.bomb")
    site.run_worker(seconds=300)
    site.done(build)
    site.one_server(build, len(ANSWERED))
    site.nothing_left()


@pytest.mark.sliced(of=100, group="killed on the cloud")
@pytest.mark.parametrize("moment", LATER)
def test_killed_late_in_a_long_step(site: NovaSite, moment: str) -> None:
    build = create(site)
    site.bomb(moment)
    site.run_worker(seconds=300)
    site.done(build)
    site.one_server(build)
    site.nothing_left()


@pytest.mark.sliced(of=100, group="killed on the cloud")
@pytest.mark.parametrize(("killed", "reverted"), REVERTS)
def test_killed_then_aborted_and_killed_again(site: NovaSite, killed: str, reverted: str) -> None:
    build = create(site)
    site.bomb(f"after:{killed}")
    site.service.abort(build.id)
    site.bomb(reverted, reached=STEPS.index(reverted.partition(":")[2]) <= STEPS.index(killed))
    site.run_worker(seconds=200)
    assert site.service.build(build.id).state is BuildState.ABORTED
    site.service.reap()
    assert site.service.store.list() == []
    site.nothing_left()
