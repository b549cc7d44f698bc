"""Bases that an outsider uploads to the cloud, and recipes that are built when they do."""

from __future__ import annotations

import contextlib
import io
import secrets
import time
from pathlib import Path
from typing import Any

from glanceclient import Client as Glance
from glanceclient.exc import HTTPNotFound

from imageflow.model import Build, BuildState
from tests.cloud.cloud import Cloud
from tests.small.site import Site

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
