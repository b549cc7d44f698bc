"""Events on the cloud's own bus: bases that others upload, images of ours that others delete, and a bus that is away."""

from __future__ import annotations

import contextlib
import io
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from glanceclient import Client as Glance
from glanceclient.exc import HTTPNotFound

from imageflow import engine
from imageflow.errors import InputChanged, NotFound, RecipeError
from imageflow.model import Build, BuildState, Outcome
from imageflow.persistence import outbox, versions
from tests.cli_program import Program
from tests.cloud.cloud import Cloud
from tests.guests import tiny
from tests.small.machines import MachineSite
from tests.small.site import Site

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]
SAMPLE = 3  # of its tests in each run, see sample.py

RECIPE = """\
images:
  - name: web
    method: boot
    base: {{glance: {base}}}
    machine: {{vcpus: 1, memory: 192}}
    configure: [{{shell: "echo configured > /srv/done"}}]
    verify: [{{shell: "grep configured /srv/done"}}]
    on: [{on}]
  - name: other
    method: boot
    base: {{glance: {base}-other}}
    on: [{{event: glance.image.activate, where: {{name: {base}-other}}}}]
"""
ON_UPLOAD = "{{event: glance.image.activate, where: {{name: {base}}}}}"


def options(cloud: Cloud, **more: str) -> dict[str, str]:
    usual = {
        "openstack__clouds_yaml": str(cloud.clouds_yaml),
        "openstack__cloud": "imageflow",
        "openstack__patience": "60",
        "listeners__enabled": "notifications",
        "notifications__transport_url": cloud.bus,
        "notifications__pool": f"test-{secrets.token_hex(4)}",
        "triggers__debounce": "0",
        "triggers__reconcile": "600",
    }
    return usual | more


class Bases:
    """Images that an outsider uploads, as `openstack image create` does, or by the same client without its start-up."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud, self.folder = cloud, folder
        self.name = f"base-{secrets.token_hex(4)}"
        self.glance = Glance("2", session=cloud.session("outsider"), region_name="RegionOne")
        self.ids: list[str] = []
        self._last = 0

    def _await_another_second(self) -> None:
        """Glance with MariaDB knows whole seconds: of two images of one second it can't say which is newer."""
        while int(time.time()) <= self._last:
            time.sleep(0.02)

    def _made(self, id: str) -> None:
        self.ids.append(id)
        self._last = int(time.time())

    def upload(self, name: str = "", **properties: str) -> str:
        """-> the id of an image of this name, with new content."""
        self._await_another_second()
        made = self.glance.images.create(
            name=name or self.name, disk_format="raw", container_format="bare", **properties
        )
        self._made(made.id)
        self.glance.images.upload(made.id, io.BytesIO(secrets.token_bytes(64)))
        return str(made.id)

    def create(self, content: Path, **properties: str) -> str:
        """The same as a user would do it at the command line."""
        said = [word for key, value in properties.items() for word in ("--property", f"{key}={value}")]
        self._await_another_second()
        formats = ("--disk-format", "qcow2", "--container-format", "bare")
        made = self.cloud.openstack("image", "create", self.name, *formats, "--file", str(content), *said)
        self._made(made["id"])
        return str(made["id"])

    def delete(self, id: str) -> None:
        self.glance.images.delete(id)

    def remove(self) -> None:
        for id in self.ids:
            with contextlib.suppress(HTTPNotFound):
                self.glance.images.delete(id)

    def set(self, id: str, *, active: bool) -> None:
        """As an administrator only may."""
        admin = Glance("2", session=self.cloud.session("admin"), region_name="RegionOne")
        admin.images.reactivate(id) if active else admin.images.deactivate(id)


@pytest.fixture
def bases(cloud: Cloud, tmp_path: Path) -> Iterator[Bases]:
    found = Bases(cloud, tmp_path)
    yield found
    found.remove()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds that are asked for here store something small, and make no machine."""
    monkeypatch.setattr(engine, "factory_of", lambda method: "tests.small.quick.quick")


def register(site: Site, bases: Bases, on: str = ON_UPLOAD) -> None:
    file = site.folder / "recipe.yaml"
    file.write_text(RECIPE.format(base=bases.name, on=on.format(base=bases.name)))
    site.service.recipes.add(file)


def serve(site: Site) -> None:
    log = site.folder / "workers.log"
    before = log.read_text().count("listener ") if log.exists() else 0
    site.worker(module="tests.small.dispatch_worker")
    site.await_that(lambda: log.exists() and log.read_text().count("listener ") > before)


def stop(site: Site) -> None:
    site.workers[-1].terminate()
    site.workers[-1].wait()


def first_build(site: Site) -> Build:
    """Of the image `web`, as somebody asks for it."""
    [submission] = site.service.submit(site.folder / "recipe.yaml", ["web"])
    return site.await_state(submission.build, BuildState.SUCCEEDED, seconds=60)


def one_rebuild(site: Site, first: Build, seconds: float = 90) -> Build:
    """The only other build there is, when it is done and nothing waits any more."""

    def done() -> Any:
        found = site.service.builds()
        return len(found) > 1 and not site.service.events.rebuilds() and all(b.state.ended for b in found) and found

    found = site.await_that(done, seconds)
    time.sleep(3)  # whatever else would come
    assert [b.id for b in site.service.builds()] == [b.id for b in found]
    assert [(b.image, b.state) for b in found] == [("web", BuildState.SUCCEEDED)] * 2 and found[1].id == first.id
    return site.service.build(found[0].id)


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
    from imageflow import pins, recipe

    first = bases.upload(os_distro="debian", os_version="12")
    newer = bases.upload(os_distro="debian", os_version="13")
    with Site(tmp_path, **options(cloud)) as site:

        def pin(base: str) -> dict[str, str]:
            file = tmp_path / "one.yaml"
            file.write_text(f"images:\n  - name: x\n    method: boot\n    base: {base}\n")
            loaded = recipe.load(file)
            found = pins.pin(loaded.images[0], tmp_path, site.config)
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
    from imageflow import newer_bases
    from imageflow.dispatcher import Dispatcher
    from imageflow.inbox import SqlInbox
    from imageflow.openstack import Cloud as Place
    from imageflow.openstack.images import Images

    bases.upload()
    with Site(tmp_path, **options(cloud)) as site:
        register(site, bases)
        serve(site)
        first_build(site)
        stop(site)
        new = bases.upload()
        image = Images(Place(site.config.openstack)).get(new)
        assert image is not None
        event = newer_bases.activation(image)
        inbox = SqlInbox(site.service.database)
        # The event is there, and was answered before the image was.
        bases.set(new, active=False)
        inbox.receive([event], listener="notifications")
        Dispatcher(site.service, inbox).once()
        [seq] = [e.seq for e in site.service.events.select(type="glance.image.activate") if e.data["id"] == new]
        assert [r.outcome for r in site.service.events.get(seq)[1]] == [Outcome.REUSED]
        assert newer_bases.ask(site.service.database, site.config) == []
        bases.set(new, active=True)
        assert newer_bases.ask(site.service.database, site.config) == ["web"]
        assert newer_bases.ask(site.service.database, site.config) == []
        assert Dispatcher(site.service, inbox).once() == ["web"]
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
    from imageflow.control import Control

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
        assert lost.why == "it is not in glance any more, and imageflow did not delete it"
        bases.set(version.path, active=True)
        assert site.service.images.verify("web", Control()).state == "stored"
        [again] = site.service.submit(tmp_path / "recipe.yaml", ["web"])
        assert (again.verdict, again.build.id) == ("reused", first.id)
        site.service.images.delete(version.digest)


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
