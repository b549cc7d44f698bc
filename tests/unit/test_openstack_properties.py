"""What an image says of itself in Glance: names it may use, what a machine must be, what a snapshot must not say."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from imageflow.errors import RecipeError
from imageflow.model import Artifact
from imageflow.openstack.image import SELF, WHOLE, GlanceImage
from imageflow.openstack.properties import checked, formats, hardware, is_disk, product
from imageflow.stores import About
from imageflow.stores.glance.sets import ImageSet, described, sets_of

SNAPSHOT = {  # of Nova 26, of a server made of an image of ours that its owner had uploaded with openstackclient
    "id": "5a1c7b4e-0c4d-4f0e-8df5-0f2c1f4e9a11",
    "name": "web-1",
    "status": "active",
    "visibility": "private",
    "size": 1024,
    "min_disk": 1,
    "min_ram": 0,
    "tags": [],
    "os_hash_algo": "sha512",
    "locations": [],
    "os_distro": "debian",
    "os_version": "12",
    "os_type": "linux",
    "architecture": "x86_64",
    "hw_disk_bus": "virtio",
    "hw_machine_type": "q35",
    "hw_qemu_guest_agent": "yes",
    "trait:HW_CPU_X86_VMX": "required",
    "kernel_id": "8cb3f5a1-9d0a-4b4e-a9a6-7b7c6bbf8a01",
    "ramdisk_id": "",
    "base_image_ref": "1d2c",
    "boot_roles": "member,reader",
    "image_location": "snapshot",
    "image_state": "available",
    "image_type": "snapshot",
    "instance_uuid": "b2c3",
    "user_id": "c0ffee",
    "owner_id": "7e57",
    "owner_project_name": "demo",
    "owner_user_name": "demo",
    "owner_specified.openstack.md5": "",
    "owner_specified.openstack.sha256": "abc",
    "owner_specified.openstack.object": "images/base",
    "os_shutdown_timeout": "0",
    "hw_rescue_bus": "ide",
    "hw_rescue_device": "cdrom",
    "img_signature": "xyz",
    "cinder_encryption_key_id": "1",
    "os_glance_importing_to_stores": "",
    "imageflow:build_id": "an older build",
    "imageflow:whole": "2",
}


def test_what_a_product_keeps_of_a_snapshot() -> None:
    keep, remove = product(SNAPSHOT)
    assert keep == {
        "os_distro": "debian",
        "os_version": "12",
        "os_type": "linux",
        "architecture": "x86_64",
        "hw_disk_bus": "virtio",
        "hw_machine_type": "q35",
        "hw_qemu_guest_agent": "yes",
        "trait:HW_CPU_X86_VMX": "required",
        "kernel_id": "8cb3f5a1-9d0a-4b4e-a9a6-7b7c6bbf8a01",
    }
    attributes = {
        "id",
        "name",
        "status",
        "visibility",
        "size",
        "min_disk",
        "min_ram",
        "tags",
        "os_hash_algo",
        "locations",
    }
    assert set(remove) == set(SNAPSHOT) - set(keep) - attributes
    assert remove == sorted(remove)
    assert product(keep) == (keep, [])
    assert product({}) == ({}, [])


@pytest.mark.parametrize(
    "name",
    [
        "id",
        "owner",
        "size",
        "status",
        "checksum",
        "created_at",
        "location",
        "deleted",
        "Owner",
        "ID",
        "name",
        "visibility",
        "disk_format",
        "protected",
        "os_hidden",
        "os_glance_x",
        "OS_GLANCE_x",
        "imageflow:build_id",
        "ImageFlow:x",
        "backend",
        "image_id",
        "self",
        "MIN_DISK",
        "",
        "x" * 256,
        " x",
        "x ",
        "a/b",
        "a\nb",
        "a\0b",
        "\ud800",
        "🐧",
    ],
)
def test_a_name_that_can_not_be(name: str) -> None:
    with pytest.raises(RecipeError, match=r"publish\.properties") as raised:
        checked({"good": "1", name: "x"})
    assert raised.value.hint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("note", "x" * 65_536),
        ("note", "ä" * 40_000),
        ("note", "🐧"),
        ("note", "a\0b"),
        ("min_disk", "many"),
        ("min_ram", "-1"),
        ("min_disk", "²"),
        ("min_disk", str(2**31)),
        ("min_disk", ""),
    ],
)
def test_a_value_that_can_not_be(name: str, value: str) -> None:
    with pytest.raises(RecipeError, match=name):
        checked({name: value})


def test_what_may_be_said() -> None:
    said = {
        "os_distro": "debian",
        "a b": "",
        "x" * 255: "y" * 65_535,
        "ä:~{}": "Grüße\n",
        "min_disk": "4",
        "min_ram": "512",
    }
    assert checked(said) == said | {"min_disk": 4, "min_ram": 512}


def test_two_names_that_are_one() -> None:
    with pytest.raises(RecipeError, match="'Note' and 'note'"):
        checked({"Note": "1", "note": "2"})


@pytest.mark.parametrize(
    ("architecture", "firmware", "expected"),
    [
        ("", "", {}),
        ("amd64", "bios", {"architecture": "x86_64"}),
        ("x86_64", "uefi", {"architecture": "x86_64", "hw_firmware_type": "uefi", "hw_machine_type": "q35"}),
        ("arm64", "uefi", {"architecture": "aarch64", "hw_firmware_type": "uefi"}),
        ("", "uefi", {"hw_firmware_type": "uefi", "hw_machine_type": "q35"}),
    ],
)
def test_what_a_machine_must_be(architecture: str, firmware: str, expected: dict[str, str]) -> None:
    assert hardware(architecture, firmware) == expected


def test_formats_are_those_that_glance_takes() -> None:
    disks = {"ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso", "ploop"}  # its default
    for format in ("qcow2", "raw", "vhd", "tar", "tgz", "squashfs", "aci", "kernel", "initrd", "manifest"):
        said = formats(format)
        assert said["disk_format"] in disks
        assert said["container_format"] in {"bare", "aki", "ari"}
        assert bool(said.get("os_hidden")) is not (is_disk(format) or format in ("kernel", "initrd"))


DISK = Artifact("web.qcow2", "qcow2", 10, "a" * 64, (1 << 30) + 1)
MANIFEST = Artifact("web.manifest.json", "manifest", 2, "b" * 64)


def test_what_the_recipe_says_wins() -> None:
    about = About("web", properties={"architecture": "i686", "min_disk": "9"}, architecture="x86_64", firmware="bios")
    name, said = described(about, [DISK, MANIFEST], 0)
    assert name == "web"
    assert (said["architecture"], said["min_disk"]) == ("i686", 9)
    _, said = described(dataclasses.replace(about, properties={}), [DISK, MANIFEST], 0)
    assert (said["architecture"], said["min_disk"]) == ("x86_64", 2)
    _, said = described(dataclasses.replace(about, properties={"Architecture": "i686"}), [DISK, MANIFEST], 0)
    assert said["Architecture"] == "i686" and "architecture" not in said  # Glance takes them for one
    name, said = described(about, [DISK, MANIFEST], 1)
    assert name == "web.manifest"
    assert "architecture" not in said
    assert all(isinstance(value, str) for key, value in said.items() if ":" in key)


def made(
    position: int, count: int = 2, build: str = "b1", status: str = "active", id: str = "", **more: Any
) -> GlanceImage:
    artifacts = [DISK, MANIFEST]
    name, said = described(About("web"), artifacts[:count] if count <= 2 else artifacts, position)
    id = id or f"{build}-{position}"
    data = {
        **said,
        "id": id,
        SELF: id,
        "name": name,
        "status": status,
        "size": artifacts[position].size,
        "imageflow:build_id": build,
        "imageflow:digest": DISK.digest,
        "imageflow:artifact": artifacts[position].name,
        "imageflow:whole": str(count),
        "created_at": "2026-01-01T00:00:00Z",
    } | {key.replace("_", ":", 1) if key.startswith("imageflow") else key: value for key, value in more.items()}
    return GlanceImage(id, name, status, {key: value for key, value in data.items() if value is not None})


def one(*images: GlanceImage) -> ImageSet:
    (found,) = sets_of(images)
    return found


def test_a_version_is_its_images() -> None:
    found = one(made(1), made(0))
    assert found.whole
    ref = found.ref("glance")
    assert (ref.path, ref.artifacts) == ("b1-0", (DISK, MANIFEST))
    assert found.superfluous == ()
    assert [s.build_id for s in sets_of([made(0), made(0, build="b2"), made(1, build="b2"), made(1)])] == ["b1", "b2"]


@pytest.mark.parametrize(
    "images",
    [
        [made(0)],
        [made(1)],
        [made(0), made(1, status="queued")],
        [made(0, status="saving"), made(1)],
        [made(0, imageflow_whole=None), made(1)],
        [made(0, imageflow_corrupt="true"), made(1)],
        [made(0), made(1, imageflow_corrupt="true")],
        [made(0, imageflow_position=None), made(1)],
    ],
)
def test_a_version_that_is_not_whole(images: list[GlanceImage]) -> None:
    assert not one(*images).whole


def test_copies_of_a_version() -> None:
    late = made(0, id="late", imageflow_whole=None)
    half = made(0, id="half", status="queued", imageflow_whole=None)
    short = made(0, id="short", size=3, imageflow_whole=None)  # Glance took the end of a connection for the data's
    found = one(late, half, short, made(0), made(1))
    assert found.whole
    assert found.images[0].id == "b1-0"  # what was published, though another one is older
    assert {image.id for image in found.superfluous} == {"late", "half", "short"}
    assert one(short, made(0, id="good", imageflow_whole=None)).images[0].id == "good"  # whatever comes first
    assert one(made(0, size=3), made(1)).superfluous == ()  # what was published is not tidied away
    never = one(made(0, imageflow_whole=None), made(1))
    assert len(never.superfluous) == 2
    beheaded = one(made(1))
    assert beheaded.missing == "web.qcow2"
    assert len(beheaded.superfluous) == 1
    assert one(made(0)).superfluous == ()  # its manifest is gone; it may be booted all the same
    assert WHOLE in made(0).data


def test_what_inherits_from_an_image_of_ours_is_not_ours() -> None:
    assert not made(0).inherited
    assert made(0, **{SELF: "another"}).inherited
    assert made(0, image_type="snapshot").inherited
    assert made(0, image_type="backup").inherited


def test_a_store_in_glance_is_cheap_to_import() -> None:
    heavy = ("taskflow", "sqlalchemy", "openstack", "glanceclient", "novaclient", "keystoneauth1")
    code = f"import sys, imageflow.stores.glance.driver; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
