"""kill -9 of the worker everywhere in the flow install: an ISO that a server is rescued with, then its own disk."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.model import Build, BuildState
from tests.cloud.cloud import Cloud
from tests.cloud.nova_site import NovaSite
from tests.cloud.sample import rotating
from tests.flows.test_crash_install import STEPS, recipe

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(1800)]
IN_ALL = ["in:{}:0", "in:{}:0.4", "in:{}:2", "after:{}"]
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


def installed_once(site: NovaSite, build: Build) -> None:
    """One server: it was rescued with the ISO once, and left it once."""
    site.done(build)
    actions = site.actions(site.one_server(build))
    assert (actions.count("rescue"), actions.count("unrescue")) == (1, 1), actions
    site.nothing_left()


@pytest.mark.parametrize("moment", rotating("install", IN_ALL))
def test_killed_in_every_step_of_one_build(site: NovaSite, moment: str) -> None:
    build = create(site)
    for step in STEPS:
        code = site.bomb(moment.format(step))
        if code == 0:
            assert moment.startswith("in:") and not moment.endswith(":0"), (step, site.log(build))
            break
    site.run_worker(seconds=300)
    installed_once(site, build)


@pytest.mark.parametrize("moment", rotating("install later", LATER))
def test_killed_late_in_a_long_step(site: NovaSite, moment: str) -> None:
    build = create(site)
    site.bomb(moment)
    site.run_worker(seconds=300)
    installed_once(site, build)


@pytest.mark.parametrize(("killed", "reverted"), rotating("install reverted", REVERTS))
def test_killed_then_aborted_and_killed_again(site: NovaSite, killed: str, reverted: str) -> None:
    build = create(site)
    assert site.bomb(killed) == -signal.SIGKILL
    site.service.abort(build.id)
    site.bomb(reverted)
    site.run_worker(seconds=200)
    assert site.service.build(build.id).state is BuildState.ABORTED
    site.service.reap()
    site.nothing_left()
