"""A publisher between two clouds: what it reads from the one, and when."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.background.flag import Flag
from imageflow.host.control import Control
from imageflow.images.publisher import Publisher
from imageflow.model import Build, BuildState, Version
from imageflow.persistence import builds, publications, versions
from imageflow.stores import targets
from tests.contracts.stores import image
from tests.servers.glance import Glance, clouds_yaml, glance_server
from tests.small.site import Site


@pytest.fixture
def near() -> Iterator[Glance]:
    with glance_server() as server:
        yield server


@pytest.fixture
def far() -> Iterator[Glance]:
    with glance_server() as server:
        yield server


@pytest.fixture
def site(near: Glance, far: Glance, tmp_path: Path) -> Iterator[Site]:
    more = {
        "openstack__clouds_yaml": str(clouds_yaml(tmp_path, near=near, far=far)),
        "openstack__cloud": "near",
        "openstack__patience": "0",
        "store__driver": "glance",
        "publish__targets": "far=glance:far",
        "publish__max_wait": "0.1",
    }
    with Site(tmp_path, **more) as site:
        yield site


def wanted(site: Site, folder: Path) -> None:
    """A version in the store, that is to be in the target."""
    id = secrets.token_hex(6)
    recipe = {"name": "web", "method": "boot", "publish": {"name": "web"}}
    build = Build(
        id, "web", "boot", BuildState.SUCCEEDED, "a test", id * 5, str(uuid.uuid4()), time.time(), recipe=recipe
    )
    ref = site.service.store.add(image(folder / "files"), build_id=id, control=Control())
    with site.service.database.begin() as conn:
        builds.insert(conn, build, claim=False)
        made = Version(0, "web", id, build.key, ref.digest, time.time(), ref.store, ref.path, ref.artifacts)
        publications.want(conn, versions.add(conn, made).id, ["far"])


def test_the_target_is_asked_before_a_version_is_read_for_it(
    site: Site, near: Glance, far: Glance, tmp_path: Path
) -> None:
    wanted(site, tmp_path)
    [target] = targets.parse(site.config)
    publisher = Publisher(site.config, site.service.database, site.service.store, site.service.images, target)

    def step() -> tuple[str, int]:
        """-> the state after one attempt, and how many files were read for it."""
        [one] = site.service.publications.select()
        end, attempts = time.monotonic() + 20, one.attempts
        near.seen.clear()
        while one.attempts == attempts:
            assert time.monotonic() < end, one
            publisher._step(Flag())
            [one] = site.service.publications.select()
        return one.state, sum(request.endswith("/file") for request in near.seen)

    far.before = lambda request: (503, None)
    assert step() == ("waiting", 0)
    far.before = lambda request: None
    assert step() == ("stored", 2)
    site.service.publications.retry("web")
    assert step() == ("stored", 0), "it is there already"
    del far.images[next(iter(far.images))]
    site.service.publications.retry("web")
    assert step() == ("stored", 2)
    assert len(far.images) == 2
