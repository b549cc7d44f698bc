"""Events on the cloud's own bus: bases that others upload, told, too early or never, and a bus that is away."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from imageflow.errors import InputChanged, RecipeError
from imageflow.model import BuildState, Outcome
from tests.cloud.bases import Bases, first_build, one_rebuild, options, register, serve, stop
from tests.cloud.cloud import Cloud
from tests.guests import tiny
from tests.small.machines import MachineSite
from tests.small.site import Site

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=4, group="events on the cloud"), pytest.mark.timeout(900)]


def test_a_new_base_is_one_rebuild_whose_reason_names_the_event_and_the_pin(
    cloud: Cloud, bases: Bases, tmp_path: Path
) -> None:
    """On machines of this host: the base is downloaded, its hash checked, and what is made of it boots."""
    name = bases.name
    old = bases.create(tiny.disk(), os_distro="tiny")
    with MachineSite(tmp_path, **options(cloud)) as site:
        register(site, bases)
        [plan] = site.service.plan(tmp_path / "recipe.yaml", ["web"])
        assert plan.pins[f"base:glance:{name}"].startswith(f"{old}:sha512:")
        site.worker("real", module="tests.small.dispatch_worker")
        first = site.await_state(
            site.service.submit(tmp_path / "recipe.yaml", ["web"])[0].build,
            *(BuildState.SUCCEEDED, BuildState.PAUSED),
            seconds=400,
        )
        assert first.state is BuildState.SUCCEEDED, (first.error, site.log(first))
        assert f"image {old} in Glance: downloading" in site.log(first)
        repacked = tmp_path / "new.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-c", tiny.disk(), repacked], check=True)
        new = bases.create(repacked)
        second = one_rebuild(site, first, seconds=400)
        assert second.reason.startswith("glance.image.activate"), second.reason
        assert f"base glance {name} {old[:8]} → {new[:8]}" in second.reason
        assert second.pins[f"base:glance:{name}"].startswith(f"{new}:sha512:")
        assert f"image {new} in Glance: downloading" in site.log(second)
        [again] = site.service.submit(tmp_path / "recipe.yaml", ["web"])
        assert again.verdict == "reused" and again.build.id == second.id
        site.service.machines.collect(lambda _: False, everything=True)
        forced = site.service.submit(tmp_path / "recipe.yaml", ["web"], force=True)[0].build
        site.await_that(lambda: f"image {new} in Glance: in the cache" in site.log(forced), seconds=60)
        site.service.cancel(forced.id)
        site.await_state(forced, BuildState.CANCELLED, seconds=120)
        bases.delete(new)
        bases.delete(old)
        with pytest.raises(RecipeError, match=f"no active image named '{name}'.*openstack image list --name {name}"):
            site.service.plan(tmp_path / "recipe.yaml", ["web"])


def test_an_image_in_glance_that_is_gone_or_replaced_is_a_changed_input(
    cloud: Cloud, bases: Bases, tmp_path: Path
) -> None:
    """A build that was planned does not take another one in its place."""
    old = bases.upload()
    with MachineSite(tmp_path, **options(cloud)) as site:
        register(site, bases)
        [submission] = site.service.submit(tmp_path / "recipe.yaml", ["web"])
        bases.delete(old)
        site.run_worker(seconds=200)
        build = site.service.build(submission.build.id)
        assert build.state is BuildState.PAUSED and build.step == "fetch-base"
        assert build.error is not None and f"image {old} in Glance is gone" in build.error
        assert build.hint == InputChanged.hint
        site.service.abort(build.id)
        site.run_worker(seconds=100)


def test_by_properties_by_id_and_what_is_not_there(cloud: Cloud, bases: Bases, tmp_path: Path) -> None:
    from imageflow import inputs, recipe

    first = bases.upload(os_distro="debian", os_version="12")
    newer = bases.upload(os_distro="debian", os_version="13")
    with Site(tmp_path, **options(cloud)) as site:

        def pin(base: str) -> dict[str, str]:
            file = tmp_path / "one.yaml"
            file.write_text(f"images:\n  - name: x\n    method: boot\n    base: {base}\n")
            loaded = recipe.load(file)
            found = inputs.pin(loaded.images[0], tmp_path, site.config)
            return {name: value for name, value in found.items() if name.startswith("base:")}

        name = bases.name
        assert pin(f"{{glance: {name}}}")[f"base:glance:{name}"].startswith(newer)
        assert pin(f"{{glance: {name}, properties: {{os_version: '12'}}}}")[f"base:glance:{name}"].startswith(first)
        [(named, value)] = pin(f"{{glance: {first}}}").items()
        assert named == f"base:glance:{first}" and value.startswith(f"{first}:sha512:")
        with pytest.raises(RecipeError, match=r"one.yaml:4: images\[0\].base.glance: there is no active image"):
            pin(f"{{glance: {name}, properties: {{os_version: '14'}}}}")
        gone = "00000000-1111-2222-3333-444444444444"
        with pytest.raises(RecipeError, match=f"there is no image {gone} in imageflow's Glance"):
            pin(f"{{glance: {gone}}}")
        bases.set(first, active=False)
        with pytest.raises(RecipeError, match=r"is deactivated.*openstack image set --activate"):
            pin(f"{{glance: {first}}}")


@pytest.mark.usefixtures("quick")
def test_a_newer_base_that_nobody_told_of_is_found(cloud: Cloud, bases: Bases, tmp_path: Path) -> None:
    """Uploaded while nothing listens; what the queue still tells afterwards is the same event."""
    old = bases.upload()
    with Site(tmp_path, **options(cloud, triggers__reconcile="2")) as site:
        register(site, bases)
        serve(site)
        first = first_build(site)
        stop(site)
        new = bases.upload()
        told = site.file.read_text()
        site.file.write_text(told.replace("enabled = notifications", "enabled = schedule"))
        serve(site)
        second = one_rebuild(site, first)
        assert second.reason.startswith("glance.image.activate")
        assert f"base glance {bases.name} {old[:8]} → {new[:8]}" in second.reason
        [event] = [e for e in site.service.events.select(type="glance.image.activate") if e.data["id"] == new]
        assert event.listener == "imageflow"
        stop(site)
        site.file.write_text(told)
        serve(site)
        site.await_that(lambda: site.service.events.get(event.seq)[0].deliveries > 1)
        assert one_rebuild(site, first).id == second.id


@pytest.mark.usefixtures("quick")
def test_a_base_that_was_told_of_too_early_is_asked_for_again(cloud: Cloud, bases: Bases, tmp_path: Path) -> None:
    """Glance tells of an image just before it is there: who looks in that moment finds nothing new."""
    from imageflow.events.inbox import SqlInbox
    from imageflow.openstack import Cloud as Place
    from imageflow.openstack.images import Images
    from imageflow.rebuilds import behind
    from imageflow.rebuilds.dispatcher import Dispatcher

    bases.upload()
    with Site(tmp_path, **options(cloud)) as site:
        register(site, bases)
        serve(site)
        first_build(site)
        stop(site)
        new = bases.upload()
        image = Images(Place(site.config.openstack)).get(new)
        assert image is not None
        event = behind.activation(image)
        inbox = SqlInbox(site.service.database)
        # The event is there, and was answered before the image was.
        bases.set(new, active=False)
        inbox.receive([event], listener="notifications")
        Dispatcher(
            site.service.config, site.service.database, site.service.submitter, site.service.checkouts, inbox
        ).once()
        [seq] = [e.seq for e in site.service.events.select(type="glance.image.activate") if e.data["id"] == new]
        assert [r.outcome for r in site.service.events.get(seq)[1]] == [Outcome.REUSED]
        assert behind.reconcile_glance(site.service.database, site.config) == []
        bases.set(new, active=True)
        assert behind.reconcile_glance(site.service.database, site.config) == ["web"]
        assert behind.reconcile_glance(site.service.database, site.config) == []
        assert Dispatcher(
            site.service.config, site.service.database, site.service.submitter, site.service.checkouts, inbox
        ).once() == ["web"]
        newest = site.service.builds()[0]
        why = f"glance.image.activate: {bases.name} in Glance is newer than what web was built from: base glance"
        assert newest.reason.startswith(why)


@pytest.mark.usefixtures("quick")
def test_a_watched_base_is_looked_at_without_a_bus(cloud: Cloud, bases: Bases, tmp_path: Path) -> None:
    old = bases.upload()
    with Site(tmp_path, **options(cloud, listeners__enabled="watch", watch__every="2")) as site:
        register(site, bases, "{{watch: base, every: 2}}")
        serve(site)
        first = first_build(site)
        new = bases.upload()
        second = one_rebuild(site, first)
        assert f"base glance {bases.name} {old[:8]} → {new[:8]}" in second.reason


@pytest.mark.usefixtures("quick")
def test_the_broker_is_away_for_a_while(cloud: Cloud, bases: Bases, tmp_path: Path) -> None:
    old = bases.upload()
    with Site(tmp_path, **options(cloud, triggers__reconcile="5")) as site:
        register(site, bases)
        serve(site)
        first = first_build(site)
        with cloud.without("rabbit"):
            time.sleep(20)
        new = bases.upload()
        second = one_rebuild(site, first, seconds=180)
        assert second.reason.startswith("glance.image.activate"), second.reason
        assert f"base glance {bases.name} {old[:8]} → {new[:8]}" in second.reason
