"""Fixtures of tests that need the cloud; mark these tests with `cloud`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cloud.packages import absent
from tests.servers.services import require

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud
    from tests.cloud.glance_rig import GlanceRig, Project


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first of these tests time until the cloud is up: minutes, on a first start or a busy machine."""
    for item in items:
        if item.get_closest_marker("cloud") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    """A running cloud, see tests/cloud/cloud.py: one for all tests of a run, or the one that IMAGEFLOW_TEST_CLOUD names."""
    require("the test cloud", absent())
    from tests.cloud.cloud import launch, running

    if given := os.environ.get("IMAGEFLOW_TEST_CLOUD"):
        yield running(Path(given))
        return
    started = launch(f"tests-{os.getpid()}")
    try:
        yield started
    finally:
        started.end()


@pytest.fixture
def nothing_left(cloud: Cloud) -> Iterator[None]:
    """Fails a test that leaves anything in the cloud, and removes that."""
    from tests.cloud.leftovers import leftovers, remove

    remove(cloud)
    yield
    left = leftovers(cloud)
    if left:
        remove(cloud)
    assert not left


@pytest.fixture(scope="module")
def glance_project(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project for the tests of a store, see tests/cloud/glance_rig.py."""
    from tests.cloud.glance_rig import Project

    made = Project(cloud, tmp_path_factory.mktemp("project"))
    yield made
    made.remove()


@pytest.fixture
def glance_rig(glance_project: Project, tmp_path: Path) -> Iterator[GlanceRig]:
    """The store in Glance; its project is empty afterwards."""
    from tests.cloud.glance_rig import GlanceRig

    made = GlanceRig(glance_project, tmp_path / "rig")
    yield made
    made.clean()
