"""kill -9 of the worker everywhere in the flow install: an ISO that a server is rescued with, then its own disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.model import Build, BuildState
from tests.cloud.cloud import Cloud
from tests.cloud.nova_site import NovaSite
from tests.flows.test_crash_install import STEPS, recipe

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]
IN_ALL = ["in:STEP:0", "in:STEP:0.4", "in:STEP:2", "after:STEP"]
ANSWERED = [  # what the cloud is asked for by a build, in this order: each has one worker that dies when it is done
    "half PUT .*/file",
    "PUT .*/file",  # the blank disk
    "POST /servers server",
    "half PUT .*/file",
    "PUT .*/file",  # the ISO
    "POST .*/metadata",
    "POST .*/action rescue",
    "POST .*/action unrescue",
    "POST .*/action pause",
    "POST .*/action createImage",
    "PUT .*/tags/",
    "PATCH /v2/images/",
    "POST .*/metadata",  # its ISO stays then, until it is deleted
    "POST .*/action unpause",
    "POST .*/action os-stop",
    "POST .*/action createImage",
    "DELETE /v2/images/",
    "DELETE /servers/",
    "DELETE /servers/",
    "DELETE .*/tags/",
]
LONG = {"boot-installer": (2, 4, 8, 12), "await-installed": (3, 6, 12, 18, 24), "boot-machine": (1, 2, 4)}
LATER = [f"in:{step}:{seconds}" for step, times in LONG.items() for seconds in times]
REVERTS = [
    (killed, reverted)
    for killed in ["in:boot-installer:3", "in:await-installed:2", "in:await-installed:15", "after:await-installed"]
    for reverted in ["revert:boot-installer", "revert:prepare-machine"]
]


@pytest.fixture
def site(cloud: Cloud, nothing_left: None, tmp_path: Path) -> Iterator[NovaSite]:
    with NovaSite(cloud, tmp_path) as site:
        yield site


def create(site: NovaSite) -> Build:
    [submission] = site.service.submit(recipe(site.folder))
    assert submission.verdict == "created", submission
    return submission.build


def installed_once(site: NovaSite, build: Build, most: int = 2) -> None:
    """One server: it was rescued with the ISO once, and left it once."""
    site.done(build)
    actions = site.actions(site.one_server(build, most))
    assert (actions.count("rescue"), actions.count("unrescue")) == (1, 1), actions
    site.nothing_left()


@pytest.mark.sliced(of=10, group="long on the cloud")
@pytest.mark.parametrize("moment", IN_ALL)
def test_killed_in_every_step_of_one_build(site: NovaSite, moment: str) -> None:
    build = create(site)
    for step in STEPS:
        site.bomb(moment.replace("STEP", step))
    site.run_worker(seconds=300)
    installed_once(site, build)


@pytest.mark.slow
def test_killed_after_each_of_its_requests_to_the_cloud(site: NovaSite) -> None:
    build = create(site)
    for moment in ANSWERED:
        site.bomb(moment, module="tests.cloud.bomb")
    site.run_worker(seconds=300)
    installed_once(site, build, len(ANSWERED))


@pytest.mark.sliced(of=100, group="killed on the cloud")
@pytest.mark.parametrize("moment", LATER)
def test_killed_late_in_a_long_step(site: NovaSite, moment: str) -> None:
    build = create(site)
    site.bomb(moment)
    site.run_worker(seconds=300)
    installed_once(site, build)


@pytest.mark.sliced(of=100, group="killed on the cloud")
@pytest.mark.parametrize(("killed", "reverted"), REVERTS)
def test_killed_then_aborted_and_killed_again(site: NovaSite, killed: str, reverted: str) -> None:
    build = create(site)
    site.bomb(killed)
    site.service.abort(build.id)
    site.bomb(reverted)
    site.run_worker(seconds=200)
    assert site.service.build(build.id).state is BuildState.ABORTED
    site.service.reap()
    site.nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["a key of its own", "the same key"])
def test_another_host_takes_it_over(cloud: Cloud, nothing_left: None, tmp_path: Path, shared: bool) -> None:
    """What is installed lets in the host's key: who has none of it installs anew, who shares it goes on from the layer."""
    database = f"sqlite:///{tmp_path}/both.db"
    for host in ("red", "blue"):
        (tmp_path / host).mkdir()
    with (
        NovaSite(cloud, tmp_path / "red", database=database, host="red", store="glance") as red,
        NovaSite(cloud, tmp_path / "blue", database=database, host="blue", store="glance") as blue,
    ):
        if shared:
            red.config.install_keys_dir.mkdir(parents=True)
            blue.config.state_dir.mkdir(exist_ok=True)
            blue.config.install_keys_dir.symlink_to(red.config.install_keys_dir)
        build = create(red)
        red.bomb("after:configure-01-shell")
        blue.run_worker(seconds=400)
        blue.done(build)
        rescued = [blue.actions(server).count("rescue") for server in blue.servers_ever(build)]
        assert rescued == ([1, 0] if shared else [1, 1]), (rescued, blue.log(build))
        red.service.reap()
        blue.nothing_left()
