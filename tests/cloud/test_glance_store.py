"""The store in Glance keeps what every store promises, on a real cloud, and what only clouds make difficult."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from imageflow import config
from imageflow.config import Config
from imageflow.config.clouds import GlanceConfig, OpenStackConfig
from imageflow.control import Control
from imageflow.errors import Cancelled, Corrupt, NotFound, RecipeError, Refused, Unavailable
from imageflow.model import Artifact
from imageflow.openstack.image import WHOLE, Image
from imageflow.openstack.trouble import OverQuota
from imageflow.stores import About, ImageRef
from imageflow.stores.glance import GlanceStore
from tests.cloud_proxy import CloudProxy
from tests.store_contract import *  # noqa: F403 - the tests of every driver
from tests.store_contract import image

pytestmark = pytest.mark.cloud
SAMPLE = 10  # of its tests in each run, see sample.py


class Project:
    """A project of its own, whose only user is an ordinary member of it; and another that looks on."""

    def __init__(self, cloud: Any, folder: Path) -> None:
        from openstack.connection import Connection

        self.cloud = cloud
        self.admin = Connection(session=cloud.session("admin"), compute_api_version="2")
        self._made: list[tuple[str, str]] = []
        self.clouds_yaml = folder / "clouds.yaml"
        identity = self.admin.identity
        member = identity.find_role("member", ignore_missing=False)
        said: dict[str, Any] = {}
        for cloud_name in ("store", "outsider"):
            name, password = f"{cloud_name}-{secrets.token_hex(4)}", secrets.token_hex(8)
            project = identity.create_project(name=name, domain_id="default")
            user = identity.create_user(name=name, password=password, domain_id="default")
            identity.assign_project_role_to_user(project, user, member)
            self._made.append((project.id, user.id))
            auth = {
                "auth_url": self.admin.session.auth.auth_url,
                "username": name,
                "password": password,
                "project_name": name,
                "user_domain_id": "default",
                "project_domain_id": "default",
            }
            said[cloud_name] = {"auth": auth, "region_name": "RegionOne", "identity_api_version": 3}
        self.clouds_yaml.write_text(yaml.safe_dump({"clouds": said}))
        self.said = said

    def session(self) -> Any:
        """keystoneauth's, of the member."""
        from openstack.connection import Connection

        return Connection(**self.said["store"]).session

    def outsider(self) -> Any:
        """Somebody in another project."""
        from openstack.connection import Connection

        return Connection(**self.said["outsider"])

    def remove(self) -> None:
        """The projects, and their users."""
        for project, user in self._made:
            self.admin.identity.delete_user(user)
            self.admin.identity.delete_project(project)


class GlanceRig:
    """The Glance of a cloud, in a project of the tests' own."""

    shares = False

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.folder = folder
        self.config = self.configured()

    def configured(self, **glance: Any) -> Config:
        """The configuration, with other [glance] options."""
        return dataclasses.replace(
            config.load(state_dir=str(self.folder)),
            openstack=OpenStackConfig("store", None, self.project.clouds_yaml, 60.0, 60.0),
            glance=dataclasses.replace(GlanceConfig("private", "upload", ()), **glance),
        )

    def store(self, **glance: Any) -> GlanceStore:
        return GlanceStore(self.configured(**glance))

    def store_at(self, auth_url: str, patience: float = 60.0) -> GlanceStore:
        """By another way to the same cloud."""
        said = json.loads(json.dumps(self.project.said["store"]))
        said["auth"]["auth_url"] = auth_url
        file = self.folder.with_name(f"{secrets.token_hex(4)}.yaml")
        file.write_text(yaml.safe_dump({"clouds": {"store": said}}))
        reached = OpenStackConfig("store", None, file, 60.0, patience)
        return GlanceStore(dataclasses.replace(self.config, openstack=reached))

    @property
    def images(self) -> list[Image]:
        """All that is in our project, hidden and half-made ones, too."""
        return self.store()._images.find({})

    def of(self, name: str, **properties: str) -> Image:
        """The image of an artifact."""
        (found,) = self.store()._images.find({"imageflow:artifact": name, **properties})
        return found

    def file(self, id: str) -> Path:
        """Where Glance keeps an image's data."""
        folder: Path = self.project.cloud.settings.state
        return folder / "glance-api" / "main" / id

    def damage(self, ref: ImageRef, name: str, how: str) -> None:
        there = self.of(name)
        path = self.file(there.id)
        if how == "remove":
            self.project.admin.image.delete_image(there.id)
        elif how == "truncate":
            os.truncate(path, path.stat().st_size - 1)
        else:
            with path.open("r+b") as file:
                file.seek(path.stat().st_size // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))

    def clean(self) -> None:
        """Nothing is left for the next test."""
        images = self.store()._images
        for one in images.find({}):
            if one.data.get("protected"):
                images.update(one.id, {"protected": False})
            images.remove(one.id)


@pytest.fixture(scope="module")
def project(cloud: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = Project(cloud, tmp_path_factory.mktemp("project"))
    yield made
    made.remove()


@pytest.fixture
def rig(project: Project, tmp_path: Path) -> Iterator[GlanceRig]:
    made = GlanceRig(project, tmp_path / "rig")
    yield made
    made.clean()


def about(**more: Any) -> About:
    return About("web", key="k" * 64, recipe="web", architecture="amd64", **more)


def kernels(folder: Path) -> list[tuple[Path, Artifact]]:
    """What a build leaves that keeps its kernel outside."""
    files = image(folder)
    for name, format, content in (("web.vmlinuz", "kernel", b"kernel" * 100), ("web.initrd", "initrd", b"")):
        (folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        files.append((folder / name, Artifact(name, format, len(content), digest)))
    return files


def test_what_the_images_say(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    said = about(
        properties={"os_distro": "debian", "hw_disk_bus": "scsi", "min_ram": "256", "note": "Grüße, «web» = 1"},
        visibility="shared",
        firmware="uefi",
        boot_loader=False,
    )
    ref = rig.store().add(kernels(tmp_path / "one"), build_id="b1", control=control, about=said)
    by_name = {i.says("imageflow:artifact"): i for i in rig.images}
    disk, manifest = by_name["web.qcow2"], by_name["web.manifest"]
    kernel, initrd = by_name["web.vmlinuz"], by_name["web.initrd"]
    assert ref.path == disk.id
    assert [i.name for i in (disk, manifest, kernel, initrd)] == ["web", "web.manifest", "web.kernel", "web.initrd"]
    assert [i.data["os_hidden"] for i in (disk, manifest, kernel, initrd)] == [False, True, False, False]
    assert [i.data["disk_format"] for i in (disk, manifest, kernel, initrd)] == ["qcow2", "raw", "aki", "ari"]
    assert [i.data["container_format"] for i in (disk, manifest, kernel, initrd)] == ["bare", "bare", "aki", "ari"]
    assert {i.data["visibility"] for i in by_name.values()} == {"shared"}
    assert {i.says(WHOLE) for i in by_name.values()} == {"4"}
    expected = {
        "os_distro": "debian",
        "hw_disk_bus": "scsi",
        "min_ram": 256,
        "min_disk": 1,
        "note": "Grüße, «web» = 1",
        "architecture": "x86_64",
        "hw_firmware_type": "uefi",
        "hw_machine_type": "q35",
        "kernel_id": kernel.id,
        "ramdisk_id": initrd.id,
        "imageflow:build_id": "b1",
        "imageflow:digest": ref.digest,
        "imageflow:key": "k" * 64,
        "imageflow:recipe": "web",
        "imageflow:image": "web",
        "imageflow:position": "0",
        "imageflow:format": "qcow2",
        "imageflow:virtual_size": str(1 << 30),
    }
    assert {name: disk.data.get(name) for name in expected} == expected
    assert "hw_firmware_type" not in manifest.data
    assert "kernel_id" not in kernel.data
    assert list(rig.store().list()) == [ref]
    rig.store().verify(ref.digest, control)


def test_nobody_sees_it_before_it_is_whole(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    outsider = rig.project.outsider()
    seen: list[list[str]] = []

    def look(_: float = 0.0) -> None:
        seen.append([one.name for one in outsider.image.images(visibility="community", name="web")])

    store = rig.store(visibility="community")
    ref = store.add(image(tmp_path / "one"), build_id="b1", control=control, about=about(), progress=look)
    assert len(seen) > 2
    assert set(map(tuple, seen)) == {()}
    look()
    assert seen[-1] == ["web"]
    assert outsider.image.get_image(ref.path).properties["imageflow:digest"] == ref.digest


def test_publishing_for_all_needs_a_role(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    files = image(tmp_path / "one")
    sent: list[float] = []
    with pytest.raises(Refused, match="public") as refused:
        rig.store().add(files, build_id="b1", control=control, about=about(visibility="public"), progress=sent.append)
    assert "publish.visibility" in refused.value.hint
    assert sent == []  # it is known before anything is sent
    assert rig.images == []
    assert all(path.exists() for path, _ in files)


@pytest.mark.parametrize("properties", [{"owner": "me"}, {"imageflow:whole": "9"}, {"a": "1", "A": "2"}, {"x\ny": ""}])
def test_a_property_that_can_not_be(
    rig: GlanceRig, tmp_path: Path, control: Control, properties: Mapping[str, str]
) -> None:
    with pytest.raises(RecipeError, match=r"publish\.properties"):
        rig.store().add(image(tmp_path / "one"), build_id="b1", control=control, about=about(properties=properties))
    assert rig.images == []


def test_too_many_properties(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    begun = time.monotonic()
    many = {f"p{number}": "x" for number in range(200)}
    with pytest.raises(OverQuota):
        rig.store().add(image(tmp_path / "one"), build_id="b1", control=control, about=about(properties=many))
    assert time.monotonic() - begun < 20  # it would be refused again
    assert rig.images == []


def test_names_that_a_client_might_trip_over(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    odd = {
        "items": "1",
        "patch": "2",
        "x" * 255: "3",
        "a b": "4",
        "~0": "5",
        "ä": "6",
        "empty": "",
        "long": "y" * 60_000,
    }
    ref = rig.store().add(image(tmp_path / "one"), build_id="b1", control=control, about=about(properties=odd))
    there = rig.of("web.qcow2").data
    assert {name: there.get(name) for name in odd} == odd
    rig.store().verify(ref.digest, control)


def test_a_protected_image_is_left(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    store = rig.store()
    ref = store.add(image(tmp_path / "one"), build_id="b1", control=control)
    store._images.update(ref.path, {"protected": True})
    with pytest.raises(Refused, match="protected"):
        store.delete(ref.digest)
    assert store.find(ref.digest) == ref  # all of it
    store._images.update(ref.path, {"protected": False})
    store.delete(ref.digest)
    assert rig.images == []


def test_a_damaged_version_is_in_no_list(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    store = rig.store()
    ref = store.add(image(tmp_path / "one"), build_id="b1", control=control)
    content = rig.file(ref.path).read_bytes()
    rig.damage(ref, "web.qcow2", "flip")
    with pytest.raises(Corrupt, match=ref.path):
        store.verify(ref.digest, control)
    assert rig.of("web.qcow2").data["os_hidden"]
    rig.file(ref.path).write_bytes(content)
    store.verify(ref.digest, control)
    assert not rig.of("web.qcow2").data["os_hidden"]
    assert rig.of("web.manifest").data["os_hidden"]
    assert store.find(ref.digest) == ref
    rig.file(ref.path).unlink()
    with pytest.raises(Corrupt, match=r"web\.qcow2"):
        store.verify(ref.digest, control)
    assert store.add(image(tmp_path / "one"), build_id="b1", control=control).digest == ref.digest
    store.verify(ref.digest, control)
    assert len(rig.images) == 2


def test_one_of_two_copies_is_damaged(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    store = rig.store()
    one = store.add(image(tmp_path / "one"), build_id="b1", control=control)
    two = store.add(image(tmp_path / "one"), build_id="b2", control=control)
    path = rig.file(one.path)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(Corrupt, match=one.path):
        store.verify(one.digest, control)
    assert store.find(one.digest) == two
    with store.open(one) as file:  # who knew the first one gets the bytes all the same
        assert hashlib.sha256(file.read()).hexdigest() == one.digest
    store.verify(one.digest, control)


def test_what_changed_on_the_way_out_is_not_believed(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    store = rig.store()
    ref = store.add(image(tmp_path / "one"), build_id="b1", control=control)
    rig.damage(ref, "web.qcow2", "flip")
    with store.open(ref) as file, pytest.raises(Corrupt):
        file.read()
    with pytest.raises(Corrupt):
        store.copy_out(ref, None, tmp_path / "disk", control)
    assert not (tmp_path / "disk").exists()


def test_half_made_ones_of_dead_builds_go(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    store = rig.store()
    whole = store.add(image(tmp_path / "one", b"1"), build_id="b1", control=control)
    for build, seed in (("dead", b"2"), ("living", b"3")):
        files = image(tmp_path / build, seed)
        store._send(files[:1], files[0][1].digest, build, about(), control, lambda _: None)
    assert [r.digest for r in store.list()] == [whole.digest]
    (gone,) = store.tidy(lambda build_id: build_id == "living")
    assert "build dead" in gone
    assert sorted(i.says("imageflow:build_id") for i in rig.images) == ["b1", "b1", "living"]
    rig.project.admin.image.delete_image(whole.path)
    assert len(store.tidy(lambda build_id: build_id == "living")) == 1  # a version without its primary image is none
    assert [i.says("imageflow:build_id") for i in rig.images] == ["living"]
    store.delete(image(tmp_path / "x", b"3")[0][1].digest, "living")
    assert rig.images == []


@pytest.mark.parametrize("method", ["upload", "glance-direct"])
def test_into_a_store_of_its_choice(rig: GlanceRig, tmp_path: Path, control: Control, method: str) -> None:
    there = [s.id for s in rig.project.admin.image.stores()]
    stores = tuple(there) if method == "glance-direct" else (there[-1],)
    store = rig.store(import_method=method, stores=stores)
    ref = store.add(kernels(tmp_path / "one"), build_id="b1", control=control)
    store.verify(ref.digest, control)
    for one in rig.images:
        assert sorted(one.says("stores").split(",")) == sorted(stores)


def test_what_the_cloud_does_not_offer(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    files = image(tmp_path / "one")
    with pytest.raises(Refused, match="tape"):
        rig.store(stores=("tape",)).add(files, build_id="b1", control=control)
    with pytest.raises(Refused, match="by carrier-pigeon, but by"):
        rig.store(import_method="carrier-pigeon").add(files, build_id="b1", control=control)
    assert rig.images == []


def test_a_stop_while_it_is_sent(rig: GlanceRig, tmp_path: Path) -> None:
    files = image(tmp_path / "one", size=8 << 20)
    control = Control()

    def stop(_: float) -> None:
        control.stop(Cancelled())

    with pytest.raises(Cancelled):
        rig.store().add(files, build_id="b1", control=control, move=True, progress=stop)
    assert all(path.exists() for path, _ in files)
    assert rig.images == []


def test_a_file_that_changed(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    files = image(tmp_path / "one")
    files[1][0].write_bytes(b"bash 6\n")  # as long as it was
    with pytest.raises(Corrupt, match=r"web\.manifest"):
        rig.store().add(files, build_id="b1", control=control)
    assert rig.images == []


def test_sparse_files_stay_sparse(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(40 << 20)
        file.write(b"data" * 1000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    store = rig.store()
    ref = store.add([(path, Artifact("disk.raw", "raw", 64 << 20, digest, 64 << 20))], build_id="b1", control=control)
    copy = store.copy_out(ref, None, tmp_path / "copy.raw", control)
    assert hashlib.sha256(copy.read_bytes()).hexdigest() == digest
    assert copy.stat().st_blocks * 512 < 1 << 20


def test_nothing_but_an_empty_file(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    path = tmp_path / "empty.tar"
    path.touch()
    artifact = Artifact("empty.tar", "tar", 0, hashlib.sha256().hexdigest())
    store = rig.store()
    ref = store.add([(path, artifact)], build_id="b1", control=control)
    with store.open(ref) as file:
        assert file.read() == b""
    assert store.copy_out(ref, None, tmp_path / "copy", control).stat().st_size == 0
    store.verify(ref.digest, control)


@pytest.mark.parametrize("seed", range(3))
def test_through_a_connection_that_breaks(rig: GlanceRig, tmp_path: Path, control: Control, seed: int) -> None:
    files = image(tmp_path / "one", size=4 << 20)
    digest = files[0][1].digest
    rates = dict.fromkeys(("401", "404", "409", "500", "503", "reset", "lost", "delay"), 0.04)
    with CloudProxy.before(rig.project.session(), seed=seed) as proxy:
        store = rig.store_at(proxy.auth_url)
        assert store.find(digest) is None  # whoever we are, is known then
        proxy.inject(rates | {"cut-upload": 0.2, "cut-download": 0.1}, services=["glance"], longest=2.0)
        ref = store.add(files, build_id="b1", control=control, about=about(visibility="community"))
        assert store.find(digest) == ref
        assert list(store.list("b1")) == [ref]
        store.verify(digest, control)
        copy = store.copy_out(ref, None, tmp_path / f"copy-{seed}", control)
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == digest
        store.tidy(lambda build_id: False)
        proxy.calm()
        one_whole_set(rig, digest)
        proxy.inject(rates, services=["glance"], longest=2.0)
        store.delete(digest, "b1")
        proxy.calm()
        assert rig.images == []
        assert len(proxy.injected) > 5, proxy.report()


def test_an_answer_that_gets_lost_costs_no_second_upload(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    files = image(tmp_path / "one", size=4 << 20)
    with CloudProxy.before(rig.project.session()) as proxy:
        store = rig.store_at(proxy.auth_url)
        proxy.once("lost", "POST", r"/v2/images$", service="glance")
        proxy.once("lost", "PUT", r"/file$", service="glance")
        proxy.once("lost", "PATCH", r"/v2/images/", service="glance")
        ref = store.add(files, build_id="b1", control=control)
        assert len(proxy.injected) == 3, proxy.report()
        assert sum(method == "PUT" for _, method, _, _ in proxy.seen) == 2
    one_whole_set(rig, ref.digest)


def test_a_cloud_that_is_away_is_no_reason_to_throw_away(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    files = image(tmp_path / "one", size=4 << 20)
    with CloudProxy.before(rig.project.session()) as proxy:
        store = rig.store_at(proxy.auth_url, patience=2.0)

        def stop(done: float) -> None:
            if done >= 1.0:  # the disk has arrived, and the manifest is on its way
                with contextlib.suppress(Exception):
                    proxy.stop("glance")

        with pytest.raises(Unavailable):
            store.add(files, build_id="b1", control=control, progress=stop)
        proxy.start("glance")
        sent = rig.of("web.qcow2")
        assert sent.active
        ref = store.add(files, build_id="b1", control=control)
        assert ref.path == sent.id
    one_whole_set(rig, ref.digest)


# -- other processes -------------------------------------------------------------------------------

_WORKER = """
import json, os, resource, signal, sys
from pathlib import Path
said = json.loads(sys.argv[1])
from imageflow import config
from imageflow.config.clouds import GlanceConfig, OpenStackConfig
from imageflow.control import Control
from imageflow.model import Artifact
from imageflow.stores.glance import GlanceStore
import dataclasses
def progress(fraction):
    if fraction >= said["until"]:
        os.kill(os.getpid(), signal.SIGKILL)
settings = dataclasses.replace(
    config.load(state_dir=said["folder"]),
    openstack=OpenStackConfig("store", None, Path(said["clouds_yaml"]), 60.0, 60.0),
    glance=GlanceConfig("private", "upload", ()),
)
files = [(Path(path), Artifact(**artifact)) for path, artifact in said["files"]]
if said["go"]:
    print("ready", flush=True)
    sys.stdin.readline()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ref = GlanceStore(settings).add(files, build_id="b1", control=Control(), progress=progress)
print(json.dumps([ref.path, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@contextlib.contextmanager
def worker(
    rig: GlanceRig,
    files: list[tuple[Path, Artifact]],
    *,
    until: float = 2.0,
    go: bool = False,
) -> Iterator[subprocess.Popen[str]]:
    """A process that adds the files; it is killed when the fraction `until` is sent."""
    said = {
        "folder": str(rig.folder),
        "clouds_yaml": str(rig.project.clouds_yaml),
        "files": [[str(path), dataclasses.asdict(artifact)] for path, artifact in files],
        "until": until,
        "go": go,
    }
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WORKER), json.dumps(said)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def one_whole_set(rig: GlanceRig, digest: str, count: int = 2) -> None:
    """There is this version, once, and nothing else."""
    store = rig.store()
    assert [r.digest for r in store.list()] == [digest]
    assert len(rig.images) == count
    store.verify(digest, Control())


@pytest.mark.parametrize("until", [0.3, 1.0])
def test_killed_while_it_is_sent(rig: GlanceRig, tmp_path: Path, control: Control, until: float) -> None:
    files = image(tmp_path / "one", size=32 << 20)
    with worker(rig, files, until=until) as child:
        assert child.wait(120) == -signal.SIGKILL
    assert rig.images
    assert rig.store().find(files[0][1].digest) is None
    ref = rig.store().add(files, build_id="b1", control=control)
    one_whole_set(rig, ref.digest)


def killed_at(rig: GlanceRig, files: list[tuple[Path, Artifact]], number: int, after: bool) -> bool:
    """Whether a process that adds the files was killed at its request of this number, before or after it was answered."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        return status != 0
    try:
        store = rig.store()
        session = store._images.cloud.session
        session.session = requests.Session()  # not the parent's connections
        send = session.session.send
        left = number

        def count(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = send(*arguments, **more)
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        session.session.send = count
        store.add(files, build_id="b1", control=Control())
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def test_killed_at_every_request(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    files = image(tmp_path / "one", size=64_000)
    digest = files[0][1].digest
    store = rig.store()
    number = 0
    while killed_at(rig, files, number, after=number % 2 == 1) or killed_at(rig, files, number, after=True):
        if number % 3 == 2:  # nobody goes on: then it is tidied away
            store.tidy(lambda build_id: False)
            assert len(rig.images) in (0, 2)
        store.add(files, build_id="b1", control=control)
        assert [r.digest for r in store.list()] == [digest]
        assert len(rig.images) == 2
        store.delete(digest, "b1")
        assert rig.images == []
        number += 1
    assert number > 10


def test_four_at_once(rig: GlanceRig, tmp_path: Path) -> None:
    files = image(tmp_path / "one", size=16 << 20)
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(worker(rig, files, go=True)) for _ in range(4)]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        for child in children:
            assert child.wait(200) == 0
    one_whole_set(rig, files[0][1].digest)


def test_a_large_file_needs_little_memory(rig: GlanceRig, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        for number in range(300):
            file.write(number.to_bytes(4, "big") * (1 << 18))
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
    artifact = Artifact("disk.raw", "raw", 300 << 20, sha256.hexdigest(), 300 << 20)
    with worker(rig, [(path, artifact)]) as child:
        out, _ = child.communicate(timeout=250)
    _id, before, peak = json.loads(out)
    assert peak - before < 100 << 10  # KiB; the clients themselves take most of it
    one_whole_set(rig, artifact.digest, 1)


def test_reading_needs_little_memory_and_can_be_left(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    files = image(tmp_path / "one", size=16 << 20)
    store = rig.store()
    ref = store.add(files, build_id="b1", control=control)
    for _ in range(20):  # more than a session has connections: each is given back
        with store.open(ref) as file:
            assert len(file.read(10)) == 10
    with pytest.raises(NotFound):
        store.open(dataclasses.replace(ref, digest="e" * 64))
