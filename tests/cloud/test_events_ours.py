"""Events on the cloud's own bus of images of ours: told of our own publications, and deleted or taken away by others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from imageflow.errors import NotFound
from imageflow.persistence import outbox, versions
from tests.cloud.bases import Bases, first_build, options, register, serve
from tests.cloud.cloud import Cloud
from tests.small.program import Program
from tests.small.site import Site

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=4, group="events on the cloud"), pytest.mark.timeout(900)]


@pytest.mark.usefixtures("quick", "nothing_left")
def test_other_images_and_our_own_build_nothing(cloud: Cloud, bases: Bases, tmp_path: Path) -> None:
    bases.upload()
    with Site(tmp_path, **options(cloud, store__driver="glance")) as site:
        register(site, bases)
        serve(site)
        first = first_build(site)
        published = site.service.images.version("web").path
        # An image of the base's name that carries our mark is one that we published: the cascade is for these.
        bases.upload(**{"imageflow:build_id": first.id})
        stranger = bases.upload(f"{bases.name}-another")

        def told() -> bool:
            events = site.service.events.select(type="glance.image.activate", limit=50)
            judged = {event.data["id"]: event.verdict for event in events}
            return all(judged.get(id) is not None for id in (published, stranger, bases.ids[-2]))

        site.await_that(told)
        events = site.service.events.select(type="glance.image.activate", limit=50)
        reasons = {event.data["id"]: event.reason for event in events}
        assert "our own publication" in str(reasons[published])
        assert "our own publication" in str(reasons[bases.ids[-2]])
        assert "none with these values" in str(reasons[stranger])
        assert [b.id for b in site.service.builds()] == [first.id] and not site.service.events.rebuilds()
        site.service.images.delete(first.digest or "")


@pytest.mark.usefixtures("quick", "nothing_left")
def test_an_image_of_ours_that_somebody_deletes_is_missing(cloud: Cloud, bases: Bases, tmp_path: Path) -> None:
    bases.upload()
    more = {"store__driver": "glance", "announce__targets": "http", "announce__http_url": "http://127.0.0.1:9/"}
    with Site(tmp_path, **options(cloud, **more)) as site:
        register(site, bases)
        serve(site)
        first = first_build(site)
        version = site.service.images.version("web")
        bases.delete(version.path)
        told = site.await_that(lambda: (v := site.service.images.version("web")).state == "missing" and v)
        assert told.why is not None and f"its image {version.path} is deleted (glance.image.delete" in told.why
        assert told.since is not None and abs(told.since - time.time()) < 60
        with pytest.raises(NotFound, match="is missing: its image"):
            site.service.images.base("web")
        with site.service.database.read() as conn:
            said = [d.announcement for d in outbox.select(conn) if d.announcement.type == "imageflow.image.missing"]
        assert [one.data["why"] for one in said] == [told.why]
        program = Program(site.config.state_dir, "--config-file", str(site.file), env=cloud.environment())
        listed = program.json("image", "list")
        assert [(row["image"], row["state"]) for row in listed] == [("web", "missing")]
        shown = program.json("image", "show", "web")
        assert shown["why"] == told.why and shown["since"]
        second = first_build(site)
        assert second.id != first.id
        # What we delete ourselves is not missing.
        site.service.images.delete(second.digest or "")
        time.sleep(3)  # whatever is told of that
        with site.service.database.read() as conn:
            states = {v.build_id: v.state for v in versions.select(conn, everything=True)}
        assert states == {first.id: "missing", second.id: "deleted"}


@pytest.mark.usefixtures("quick", "nothing_left")
def test_a_missing_image_that_comes_back_is_stored_again_when_it_was_verified(
    cloud: Cloud, bases: Bases, tmp_path: Path
) -> None:
    """Deactivated while nobody listens: a round finds it."""
    from imageflow.host.control import Control

    bases.upload()
    with Site(
        tmp_path, **options(cloud, store__driver="glance", listeners__enabled="schedule", triggers__reconcile="2")
    ) as site:
        register(site, bases)
        serve(site)
        first = first_build(site)
        version = site.service.images.version("web")
        bases.set(version.path, active=False)
        lost = site.await_that(lambda: (v := site.service.images.version("web")).state == "missing" and v)
        assert lost.why == "it is no longer in glance, and imageflow did not delete it"
        bases.set(version.path, active=True)
        assert site.service.images.verify("web", Control()).state == "stored"
        [again] = site.service.submit(tmp_path / "recipe.yaml", ["web"])
        assert (again.verdict, again.build.id) == ("reused", first.id)
        site.service.images.delete(version.digest)
