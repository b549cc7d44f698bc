"""The store in Glance keeps what every store promises, on a real cloud, and what only clouds make difficult."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from imageflow.config.clouds import OpenStackConfig
from imageflow.errors import Cancelled, ConfigError, Corrupt, RecipeError, Refused, Unavailable
from imageflow.host.control import Control
from imageflow.model import Artifact
from imageflow.openstack.cloud_errors import OverQuota
from imageflow.openstack.image import WHOLE
from imageflow.stores.glance.driver import GlanceStore
from tests.cloud.glance_rig import GlanceRig, about, kernels, one_whole_set
from tests.cloud.settings import REGION
from tests.contracts.stores import StoreContract, image
from tests.samples.half_stored import sent
from tests.servers.cloud_proxy import CloudProxy

pytestmark = [pytest.mark.cloud, pytest.mark.sliced(of=7)]


@pytest.fixture
def rig(glance_rig: GlanceRig) -> GlanceRig:
    return glance_rig


@pytest.fixture
def control() -> Control:
    return Control()


class TestGlanceStore(StoreContract):
    pass


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


def test_which_of_several_regions_must_be_said(rig: GlanceRig, tmp_path: Path, control: Control) -> None:
    said = json.loads(json.dumps(rig.project.said["store"]))
    del said["region_name"]
    file = tmp_path / "clouds.yaml"
    file.write_text(yaml.safe_dump({"clouds": {"store": said}}))

    def store(region: str | None) -> GlanceStore:
        reached = OpenStackConfig("store", region, file, 60.0, 60.0)
        return GlanceStore(dataclasses.replace(rig.config, openstack=reached))

    with pytest.raises(ConfigError, match="several regions") as raised:
        store(None).add(image(tmp_path / "one"), build_id="b1", control=control)
    assert str(raised.value.hint).endswith("to one of RegionOne, RegionTwo")
    ref = store(REGION).add(image(tmp_path / "two"), build_id="b1", control=control)
    assert [one.id for one in rig.images if one.says(WHOLE)].count(ref.path) == 1


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
        sent(store, files[:1], build)
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
    with CloudProxy.before(rig.project.session(), region=REGION, seed=seed) as proxy:
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
    with CloudProxy.before(rig.project.session(), region=REGION) as proxy:
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
    with CloudProxy.before(rig.project.session(), region=REGION) as proxy:
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
