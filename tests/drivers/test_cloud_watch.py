"""What is believed of a cloud is compared with what it says: images that somebody deleted, bases that are newer."""

from __future__ import annotations

import os
import secrets
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.errors import Refused, Unavailable
from imageflow.events.inbox import SqlInbox
from imageflow.host.control import Control
from imageflow.model import Build, BuildState, Event, Version
from imageflow.openstack import Cloud
from imageflow.openstack.images import Images
from imageflow.persistence import builds, publications, versions
from imageflow.rebuilds import behind
from imageflow.rebuilds.cloud_watch import CloudWatch
from imageflow.rebuilds.matching import match_waiting
from tests.contracts.stores import image
from tests.servers.glance import Glance, clouds_yaml, glance_server
from tests.small.site import Site

BASE = """\
images:
  - name: web
    method: boot
    base: {glance: debian}
    on: [{event: glance.image.activate, where: {name: debian}}]
"""


@pytest.fixture
def glance() -> Iterator[Glance]:
    with glance_server() as server:
        yield server


@pytest.fixture
def site(glance: Glance, tmp_path: Path) -> Iterator[Site]:
    more = {"store__driver": "glance", "openstack__cloud": "c", "openstack__patience": "0"}
    with Site(tmp_path, openstack__clouds_yaml=str(clouds_yaml(tmp_path, c=glance)), **more) as site:
        yield site


def built(site: Site, **more: object) -> Build:
    """A build that succeeded."""
    id = secrets.token_hex(6)
    build = Build(id, "web", "boot", BuildState.SUCCEEDED, "a test", id * 5, str(uuid.uuid4()), time.time(), **more)  # type: ignore[arg-type]
    site.service.database.transact(lambda conn: builds.insert(conn, build, claim=False))
    return build


def published(site: Site, folder: Path, seed: bytes = b"a") -> Version:
    """A version in the store, and, as `far-id`, in the target `far`."""
    build = built(site)
    ref = site.service.store.add(image(folder / "files", seed), build_id=build.id, control=Control())
    made = Version(0, "web", build.id, build.key, ref.digest, time.time(), ref.store, ref.path, ref.artifacts)
    with site.service.database.begin() as conn:
        version = versions.add(conn, made)
        publications.want(conn, version.id, ["far"])
        one = publications.take(conn, "far", "me", 60.0)
        assert one is not None and publications.stored(conn, one, "me", "far-id")
    return version


def tell_of_deletion(site: Site, id: str, build: str | None = None) -> None:
    data = {"id": id, "properties": {"imageflow:build_id": build} if build else {}}
    event = Event("glance", f"delete:{id}", "glance.image.delete", subject=id, time=time.time(), data=data)
    SqlInbox(site.service.database).receive([event], listener="notifications")


def state_in_target(site: Site) -> str:
    [one] = site.service.publications.select()
    return one.state


def test_what_is_gone_from_a_target_is_known_though_the_store_is_away(
    site: Site, glance: Glance, tmp_path: Path
) -> None:
    version = published(site, tmp_path)
    watch = CloudWatch(site.config, site.service.database, site.service.store)
    assert watch.listen() == []
    tell_of_deletion(site, "manifest", version.build_id)
    tell_of_deletion(site, "far-id")
    glance.before = lambda request: (503, None)
    with pytest.raises(Unavailable):
        watch.listen()
    assert state_in_target(site) == "missing"


def test_what_was_told_before_anybody_compared_is_looked_at(site: Site, glance: Glance, tmp_path: Path) -> None:
    version = published(site, tmp_path)
    del glance.images[version.path]
    tell_of_deletion(site, version.path, version.build_id)
    tell_of_deletion(site, "far-id")
    assert [one.id for one in CloudWatch(site.config, site.service.database, site.service.store).listen()] == [
        version.id
    ]
    assert state_in_target(site) == "missing"


def test_a_base_that_is_replaced_within_a_second(site: Site, glance: Glance) -> None:
    """Glance's times are whole seconds: the one that is taken by its name is the newer one."""
    file = site.folder / "recipe.yaml"
    file.write_text(BASE)
    site.service.recipes.add(file)
    said = {"name": "debian", "os_hash_algo": "sha512", "created_at": "2026-01-01T00:00:00Z"}
    glance.add("a", os_hash_value="aa", **said)
    built(site, pins={"base:glance:debian": "a:sha512:aa"})
    assert behind.reconcile_glance(site.service.database, site.config) == []
    glance.add("b", os_hash_value="bb", **said)
    assert behind.reconcile_glance(site.service.database, site.config) == ["web"]
    built(site, pins={"base:glance:debian": "b:sha512:bb"})
    assert behind.reconcile_glance(site.service.database, site.config) == []


def test_a_base_that_we_published_ourselves_asks_for_nothing(site: Site, glance: Glance) -> None:
    """As when Glance tells of it. Published under the name of its own base, an image would be rebuilt for ever."""
    file = site.folder / "recipe.yaml"
    file.write_text(BASE)
    site.service.recipes.add(file)
    glance.add("a", name="debian", os_hash_algo="sha512", os_hash_value="aa", created_at="2026-01-01T00:00:00Z")
    first = built(site, pins={"base:glance:debian": "a:sha512:aa"})
    ours = {"name": "debian", "os_hash_algo": "sha512", "imageflow:build_id": first.id}
    glance.add("b", os_hash_value="bb", created_at="2026-01-02T00:00:00Z", **ours)
    assert behind.reconcile_glance(site.service.database, site.config) == []
    SqlInbox(site.service.database).receive(
        [behind.activation(Images(Cloud(site.config.openstack)).find({})[-1])], listener="notifications"
    )
    match_waiting(site.service.database)
    assert behind.reconcile_glance(site.service.database, site.config) == []
    assert site.service.events.rebuilds() == []


def test_what_can_not_be_deleted_now_is_deleted_later_and_that_is_said(
    site: Site, glance: Glance, tmp_path: Path
) -> None:
    version = published(site, tmp_path)
    glance.images[version.path]["protected"] = True
    with pytest.raises(Refused, match="is protected") as refused:
        site.service.images.delete("web")
    assert "--unprotected" in refused.value.hint and "'imageflow resource reap' removes" in refused.value.hint
    glance.images[version.path]["protected"] = False
    assert [why for _, why in site.service.reap()] == [None]
    assert glance.images == {}


def test_a_protected_version_does_not_keep_older_ones(site: Site, glance: Glance, tmp_path: Path) -> None:
    made = [published(site, tmp_path / str(number), bytes([number])) for number in range(4)]
    glance.images[made[1].path]["protected"] = True
    with pytest.raises(Refused, match="is protected"):
        site.service.images.retire("web", {"publish": {"keep": 2}})
    assert [one.id for one in site.service.images.versions("web")] == [made[3].id, made[2].id]
    there = {one["imageflow:build_id"] for one in glance.images.values()}
    assert there == {one.build_id for one in made[1:]}


def test_the_janitor_does_the_rest_while_the_store_is_away(site: Site, glance: Glance) -> None:
    old = site.config.install_keys_dir / ("a" * 64)
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    glance.before = lambda request: (503, None)
    with pytest.raises(Unavailable):
        site.service.reap()
    assert not old.exists()
