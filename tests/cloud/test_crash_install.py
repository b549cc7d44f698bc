"""kill -9 of the worker everywhere in the flow install: an ISO that a server is rescued with, then its own disk."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.model import Build, BuildState
from tests.cloud.cloud import Cloud
from tests.cloud.nova_site import NovaSite
from tests.cloud.sample import rotating, turn
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


@pytest.mark.parametrize("moment", rotating("install", IN_ALL, chosen=turn(1, 3)))
def test_killed_in_every_step_of_one_build(site: NovaSite, moment: str) -> None:
    build = create(site)
    for step in STEPS:
        code = site.bomb(moment.replace("STEP", step))
        if code == 0:
            assert moment.startswith("in:") and not moment.endswith(":0"), (step, site.log(build))
            break
    site.run_worker(seconds=300)
    installed_once(site, build)


@pytest.mark.slow
def test_killed_after_each_of_its_requests_to_the_cloud(site: NovaSite) -> None:
    build = create(site)
    for moment in ANSWERED:
        assert site.bomb(moment, module="tests.cloud.bomb") == -signal.SIGKILL, (moment, site.log(build))
    site.run_worker(seconds=300)
    installed_once(site, build, len(ANSWERED))


@pytest.mark.parametrize("moment", rotating("install later", LATER, chosen=turn(2, 5)))
def test_killed_late_in_a_long_step(site: NovaSite, moment: str) -> None:
    build = create(site)
    site.bomb(moment)
    site.run_worker(seconds=300)
    installed_once(site, build)


@pytest.mark.parametrize(("killed", "reverted"), rotating("install reverted", REVERTS, chosen=turn(3, 5)))
def test_killed_then_aborted_and_killed_again(site: NovaSite, killed: str, reverted: str) -> None:
    build = create(site)
    assert site.bomb(killed) == -signal.SIGKILL
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
        assert red.bomb("after:configure-01-shell") == -signal.SIGKILL
        blue.run_worker(seconds=400)
        blue.done(build)
        rescued = [blue.actions(server).count("rescue") for server in blue.servers_ever(build)]
        assert rescued == ([1, 0] if shared else [1, 1]), (rescued, blue.log(build))
        red.service.reap()
        blue.nothing_left()
