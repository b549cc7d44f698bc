"""The three methods on the real cloud, as a plain member: built on Nova, kept in Glance; the same recipes on this host."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageflow.compute import MachineSpec
from imageflow.compute.nova.driver import NovaCompute
from imageflow.guest import connect, keys, seed
from imageflow.host.control import Control
from imageflow.model import Build, BuildState, Version
from tests.cloud.cloud import Cloud
from tests.cloud.nova_site import NovaSite
from tests.flows import test_crash_install
from tests.guests import tiny
from tests.small.machines import MachineSite

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=2), pytest.mark.timeout(900)]
DIB = Path(__file__).parents[1] / "recipes" / "tiny.yaml"
DEBIAN = Path(__file__).parents[2] / "etc" / "recipes" / "debian.yaml"


@pytest.fixture
def site(cloud: Cloud, nothing_left: None, tmp_path: Path) -> Iterator[NovaSite]:
    with NovaSite(cloud, tmp_path, store="glance") as site:
        yield site
        site.nothing_left()


@contextlib.contextmanager
def here(cloud: Cloud, folder: Path) -> Iterator[MachineSite]:
    """The same on this host: QEMU, and a directory; Glance is where a base may come from."""
    folder.mkdir()
    cloud_options = {"openstack__cloud": "imageflow", "openstack__clouds_yaml": str(cloud.clouds_yaml)}
    with MachineSite(folder, **cloud_options) as site:
        yield site


@pytest.fixture
def base(cloud: Cloud) -> Iterator[str]:
    """Name of a base image that an outsider has uploaded."""
    name = f"tiny-{uuid.uuid4().hex[:8]}"
    made = cloud.openstack(
        *("image", "create", name, "--disk-format", "qcow2", "--file", str(tiny.disk()), "--property", "os_distro=tiny")
    )
    yield name
    cloud.openstack("image", "delete", made["id"])


def booted_recipe(folder: Path, base: str) -> Path:
    """An image made on the tiny guest from Glance, with a layer on the way."""
    file = folder / "boot.yaml"
    file.write_text(
        textwrap.dedent(f"""\
        images:
          - name: web
            method: boot
            base: {{glance: {base}, properties: {{os_distro: tiny}}}}
            machine: {{vcpus: 1, memory: 192, disk: 1}}
            configure:
              - shell: echo made > /srv/made
                checkpoint: true
              - files: [{{content: "by imageflow", path: /etc/who}}]
            verify:
              - shell: test "$(cat /srv/made)" = made && test "$(cat /etc/who)" = "by imageflow"
            publish: {{name: web-{base}, visibility: community, keep: 2, properties: {{os_distro: tiny, team: web}}}}
        """)
    )
    return file


def build(site: MachineSite, file: Path, image: str, *, seconds: float = 400) -> tuple[Build, Version]:
    """Build it; -> the build, and its version."""
    [submission] = site.service.submit(file, [image])
    site.run_worker(seconds=seconds)
    done = site.service.build(submission.build.id)
    assert done.state is BuildState.SUCCEEDED, (done.step, done.error, done.hint, site.log(done)[-4000:])
    version = site.service.images.made_by(done.id)
    assert version is not None
    return done, version


def published(cloud: Cloud, version: Version) -> dict[str, Any]:
    """The image in Glance, as the outsider sees it."""
    found: dict[str, Any] = cloud.openstack("image", "show", version.path)
    return {**found, **found.get("properties", {})}


def boots(site: NovaSite, folder: Path, version: Version, marker: str, memory: int = 192) -> None:
    """A new server of the published image lets its own user in, and has what was put into it."""
    compute = site.service.compute
    assert isinstance(compute, NovaCompute)
    mine = keys.make(folder / "user")
    name = f"{uuid.uuid4().hex[:12]}-main"
    layer = compute.layers.adopt("f0" * 32, version.path, title="as it is", build_id=name[:12])
    assert layer is not None
    control = Control(build_id=name[:12])
    spec = MachineSpec(vcpus=1, memory=memory, disk=1)
    told = seed.make(mine, instance_id=name)
    try:
        compute.ensure(name, spec, build_id=name[:12], control=control, log=print, disk=layer.source, seed=told)
        host, port = compute.address(name)
        access = keys.access(mine, host, port, host_known=True)
        with connect.await_ssh(access, control=control, log=print, timeout=400, dead=lambda: None) as guest:
            guest.run(marker, control=control)
    finally:
        compute.delete(name)
        compute.layers.release(name[:12])


def test_boot(site: NovaSite, cloud: Cloud, base: str, tmp_path: Path) -> None:
    """From Glance, configured, snapshot, verified; visible as the recipe says, and the same inputs on QEMU."""
    file = booted_recipe(tmp_path, base)
    done, version = build(site, file, "web")
    image = published(cloud, version)
    assert (image["name"], image["visibility"], image["status"]) == (f"web-{base}", "community", "active")
    assert (image["os_distro"], image["team"], image["imageflow:build_id"]) == ("tiny", "web", done.id)
    assert image["imageflow:key"] == done.key and image["imageflow:recipe"] == "web"
    assert not {"base_image_ref", "image_type", "boot_roles"} & set(image)
    titles = [layer.title for layer in site.service.compute.layers.list()]
    assert titles[0].startswith("web: shell") and not any("files" in title for title in titles), titles
    boots(site, tmp_path, version, "test -e /srv/made && test -e /etc/who")
    [again] = site.service.submit(file)
    assert again.verdict == "reused"

    with here(cloud, tmp_path / "here") as other:
        same, _version = build(other, file, "web")
        assert same.pins == done.pins and same.key == done.key
        other.nothing_left()


def test_install(site: NovaSite, cloud: Cloud, tmp_path: Path) -> None:
    """A remastered ISO, rescue, power-off, unrescue, SSH, seal, snapshot: one server all the way."""
    file = test_crash_install.recipe(tmp_path)
    done, version = build(site, file, "tiny")
    assert published(cloud, version)["visibility"] == "private"
    assert len(site.servers_ever(done)) == 1
    assert [layer.title for layer in site.service.compute.layers.list()] == ["tiny: the installed system"]
    boots(site, tmp_path, version, "test -e /srv/line && test -e /etc/installed-by", memory=256)
    changed, _version = build(site, test_crash_install.recipe(tmp_path, line="two"), "tiny")
    assert "1 of 2 stages are reused" in site.log(changed)

    with here(cloud, tmp_path / "here") as other:
        same, _version = build(other, test_crash_install.recipe(tmp_path), "tiny")
        assert same.pins == done.pins and same.key == done.key
        other.nothing_left()


def test_dib(site: NovaSite, cloud: Cloud, tmp_path: Path) -> None:
    """Built here, uploaded; what others download are the bytes that were built."""
    folder = tmp_path / "recipe"
    shutil.copytree(DIB.parent, folder)
    done, version = build(site, folder / DIB.name, "tiny")
    to = tmp_path / "saved"
    cloud.openstack("image", "save", "--file", str(to), version.path)
    assert hashlib.sha256(to.read_bytes()).hexdigest() == done.digest == version.digest
    hashed = dict(_glance(site).images.get(version.path))
    assert hashed["os_hash_value"] == hashlib.new(hashed["os_hash_algo"], to.read_bytes()).hexdigest()

    with here(cloud, tmp_path / "here") as other:
        same, _version = build(other, folder / DIB.name, "tiny")
        assert same.pins == done.pins and same.key == done.key


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_debian_by_dib_boots_on_nova(cloud: Cloud, nothing_left: None, tmp_path: Path) -> None:
    """A real Debian with cloud-init: uploaded, booted as a server, logged into; then configured on Nova."""
    with NovaSite(cloud, tmp_path, store="glance", patience=300.0) as site:
        _done, version = build(site, DEBIAN, "debian", seconds=1200)
        found = dataclasses.replace(version)
        assert published(cloud, found)["os_distro"] == "debian"
        boots(site, tmp_path, version, "grep -q imageflow /etc/motd", memory=1024)
        site.nothing_left()


def _glance(site: NovaSite) -> Any:
    compute = site.service.compute
    assert isinstance(compute, NovaCompute)
    return compute.cloud.glance
