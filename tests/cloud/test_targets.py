"""Two clouds as publication targets: one of them down, publishers killed in an upload, images that somebody deletes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from glanceclient import Client as Glance

from imageflow.model import Version
from imageflow.openstack.image import WHOLE
from imageflow.persistence import publications
from tests.cloud.cloud import Cloud
from tests.small.publishing import ONE, Place
from tests.small.site import Site
from tests.small.yard import open_yard

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=3), pytest.mark.usefixtures("nothing_left")]
TARGETS = "near=glance:imageflow, far=glance:second/RegionTwo"
REGIONS = {"near": ("imageflow", "RegionOne"), "far": ("second", "RegionTwo")}


class Clouds(Place):
    """A site that publishes to both clouds, as `near` and `far`."""

    def __init__(self, site: Site, cloud: Cloud) -> None:
        super().__init__(site)
        self.cloud = cloud
        self._glances: dict[str, Glance] = {}

    def glance(self, target: str) -> Any:
        """The client of a target, logged in."""
        if target not in self._glances:
            name, region = REGIONS[target]
            self._glances[target] = Glance("2", session=self.cloud.session(name), region_name=region)
            list(self._glances[target].images.list(limit=1))
        return self._glances[target]

    def images(self, target: str) -> list[Any]:
        """All images of ours, half-made ones and hidden ones, too."""
        images = self.glance(target).images
        found = [one for hidden in (False, True) for one in images.list(filters={"os_hidden": hidden})]
        return [one for one in found if any(key.startswith("imageflow:") for key in one)]

    def remove_image(self, target: str, id: str) -> None:
        self.glance(target).images.delete(id)

    def killed_while_sending(self, target: str) -> list[Version]:
        """A publisher is killed while it sends a version to this target; -> that one, and smaller ones that it had sent."""
        images = self.glance(target).images
        made: list[Version] = []

        def state() -> str:
            return next(one.state for one in self.rows(target=target) if one.digest == made[-1].digest)

        for size in (300, 600, 1200):
            made.append(self.version(size=size << 20))
            publisher = self.serve()
            self.await_that(lambda: list(images.list(filters={"status": "saving"})) or state() == "stored", 180)
            publisher.kill()
            publisher.wait()
            if state() == "waiting":
                return made
        raise AssertionError("each time it was killed too late")

    def exactly(self, name: str, *expected: Version) -> None:
        """Each of these versions once, active, whole and of the right size; and nothing else."""
        found = {one["imageflow:digest"]: one for one in self.images(name)}
        assert sorted(one["imageflow:digest"] for one in self.images(name)) == sorted(v.digest for v in expected)
        for version in expected:
            image = found[version.digest]
            assert (image["status"], image[WHOLE], image["size"]) == ("active", "1", version.artifacts[0].size)
            assert image["imageflow:build_id"] == version.build_id
            [row] = [one for one in self.rows(target=name) if one.digest == version.digest]
            assert (row.state, row.path) == ("stored", image["id"])

    def end(self) -> None:
        """Nothing is left in the clouds, as the publishers themselves see to it."""
        self.close()
        for version in self.service.images.versions():
            self.service.images.delete(version.digest)
        with self.publishing():
            self.await_that(lambda: not self.rows(), 120)


def options(cloud: Cloud, **more: str) -> dict[str, str]:
    given = {"publish__targets": TARGETS, "publish__max_wait": "1", "publish__lease": "5"}
    return {"openstack__clouds_yaml": str(cloud.clouds_yaml), **given, **more}


@pytest.fixture
def place(cloud: Cloud, tmp_path: Path) -> Iterator[Clouds]:
    with Site(tmp_path, lease=8, **options(cloud)) as site:
        made = Clouds(site, cloud)
        made.program.env |= cloud.environment()
        yield made
        made.end()


@pytest.mark.timeout(600)
def test_one_cloud_is_down_and_follows_when_it_is_back_without_a_build(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_yard(tmp_path, "", monkeypatch, **options(cloud)) as yard:
        place = Clouds(yard.site, cloud)
        yard.register(ONE)
        yard.push()
        with place.publishing():
            with cloud.without("glance-second"):
                assert yard.settle() == ["web"]
                [version] = place.service.images.versions()
                place.await_that(lambda: place.states()["near"] == {"stored"}, 60)
                place.exactly("near", version)
                [near] = place.images("near")
                assert (near["name"], near["imageflow:recipe"], near["visibility"]) == ("web", "web", "private")
                [far] = place.await_that(lambda: [one for one in place.rows(target="far") if one.error], 90)
                assert (far.state, far.refused) == ("waiting", 0)
                assert "second/RegionTwo" in far.error
            place.await_that(lambda: place.states()["far"] == {"stored"}, 60)
        place.exactly("near", version)
        assert place.images("near") == [near], "the other one is left as it was"
        place.exactly("far", version)
        assert yard.began == ["web"], "it was built once"
        place.end()
        assert (place.images("near"), place.images("far")) == ([], [])


@pytest.mark.timeout(600)
def test_killed_in_the_middle_of_an_upload_exactly_one_is_made(place: Clouds) -> None:
    made = place.killed_while_sending("far")
    place.serve()
    place.await_stored(180)
    place.exactly("near", *made)
    place.exactly("far", *made)


@pytest.mark.timeout(600)
def test_deleted_after_the_publisher_was_killed_in_an_upload_nothing_is_left(place: Clouds) -> None:
    for version in place.killed_while_sending("far"):
        place.service.images.delete(version.digest)
    place.serve()
    place.await_that(lambda: not place.rows(), 120)
    assert (place.images("near"), place.images("far")) == ([], [])


@pytest.mark.timeout(600)
def test_two_that_serve_publish_each_version_once(place: Clouds) -> None:
    made = [place.version(size=1 << 20) for _ in range(4)]
    both = [place.serve(), place.serve()]
    place.await_stored(180)
    place.await_serving(2)
    for process in both:
        process.terminate()
        assert process.wait(30) == 0
    place.exactly("near", *made)
    place.exactly("far", *made)


@pytest.mark.timeout(600)
def test_what_somebody_deleted_in_a_cloud_is_published_again_on_request(place: Clouds) -> None:
    version = place.version()
    with place.publishing():
        place.await_stored()
        [far] = place.rows(target="far")
        assert far.path is not None
        place.remove_image("far", far.path)
        place.service.database.transact(lambda conn: publications.lost(conn, far.path or ""))
        assert "1/2 (far: missing)" in place.program.run("image", "list").stdout
        place.program.run("publication", "retry", "web")
        place.await_stored()
        [again] = place.rows(target="far")
        assert again.path != far.path
    place.exactly("near", version)
    place.exactly("far", version)


@pytest.mark.timeout(600)
def test_the_version_is_read_from_a_cloud_and_published_to_another(cloud: Cloud, tmp_path: Path) -> None:
    more = {"store__driver": "glance", "openstack__cloud": "imageflow"}
    more["publish__targets"] = f"far=glance:second/RegionTwo, dr=directory:{tmp_path / 'dr'}"
    (tmp_path / "dr").mkdir()
    with Site(tmp_path, lease=8, **options(cloud, **more)) as site:
        place = Clouds(site, cloud)
        version = place.version(size=5 << 20)
        with place.publishing():
            place.await_stored()
        place.exactly("far", version)
        assert (tmp_path / "dr" / version.digest / "web.raw").stat().st_size == version.artifacts[0].size
        scratch = site.config.state_dir / "publishing"
        assert [entry.name for entry in scratch.iterdir()] == [".lock"]
        place.end()
        assert list((tmp_path / "dr").glob("[0-9a-f]*")) == []
        assert (place.images("near"), place.images("far")) == ([], [])
