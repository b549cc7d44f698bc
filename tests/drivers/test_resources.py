"""What is removed from this machine, and what isn't touched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.errors import ImageflowError
from imageflow.host import removal
from imageflow.model import ResourceKind
from tests.drivers.machine import need, need_loops


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A work folder; nothing in it outlives the test."""
    need(root=True)
    folder = tmp_path / "builds" / "0123456789ab"
    folder.mkdir(parents=True)
    yield folder
    for mount in removal.mounts_under(tmp_path):
        subprocess.run(["umount", "--lazy", str(mount.path)], check=False)
    for loop in removal.loops_under(tmp_path):
        subprocess.run(["losetup", "-d", loop.node], check=False)


def attach(file: Path, size: int = 8 << 20) -> str:
    with file.open("wb") as disk:
        disk.truncate(size)
    return subprocess.check_output(["losetup", "--show", "-f", str(file)], text=True).strip()


def is_attached(node: str) -> bool:
    return Path("/sys/block", Path(node).name, "loop", "backing_file").exists()


@pytest.mark.parametrize("kind", [ResourceKind.DIRECTORY, ResourceKind.MOUNT, ResourceKind.LOOP])
def test_absent_is_fine(work: Path, kind: ResourceKind) -> None:
    removal.remove(kind, str(work / "never was"))


@pytest.mark.parametrize("name", ["relative", "/", "/tmp", "/a/../..", "", "/home/x/../../etc"])
def test_what_no_build_can_have_made_is_refused(name: str) -> None:
    for kind in (ResourceKind.DIRECTORY, ResourceKind.MOUNT, ResourceKind.LOOP):
        with pytest.raises(ImageflowError, match="not a path that a build"):
            removal.remove(kind, name)


def test_a_publication_is_not_this_machines() -> None:
    with pytest.raises(ImageflowError, match="its driver removes it"):
        removal.remove(ResourceKind.PUBLICATION, "directory:abc")


def test_a_folder_goes_with_its_mounts_and_not_what_is_bound_into_it(work: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    (work / "tmp" / "mnt").mkdir(parents=True)
    removal.mount_tmpfs(work / "tmp", 1 << 20)
    (work / "tmp" / "mnt dir").mkdir()
    subprocess.run(["mount", "--bind", str(outside), str(work / "tmp" / "mnt dir")], check=True)

    removal.remove(ResourceKind.DIRECTORY, str(work))

    assert not work.exists()
    assert (outside / "precious").read_text() == "kept"
    assert removal.mounts_under(tmp_path) == []


def test_a_busy_mount_goes(work: Path) -> None:
    removal.mount_tmpfs(work / "tmp", 1 << 20)
    with (work / "tmp" / "open").open("w"):
        removal.remove(ResourceKind.MOUNT, str(work / "tmp"))
        assert removal.mounts_under(work) == []
        assert list((work / "tmp").iterdir()) == []


def test_a_mounted_tmpfs_is_taken_over(work: Path) -> None:
    removal.mount_tmpfs(work / "tmp", 1 << 20)
    (work / "tmp" / "kept").touch()
    removal.mount_tmpfs(work / "tmp", 1 << 20)
    assert (work / "tmp" / "kept").exists()
    assert len(removal.mounts_under(work)) == 1


def test_a_dangling_link_goes_and_its_target_stays(work: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (work / "link").symlink_to(tmp_path / "target")
    removal.remove(ResourceKind.DIRECTORY, str(work / "link"))
    assert not os.path.lexists(work / "link")
    assert (tmp_path / "target").exists()


def test_only_the_loops_below_are_detached(work: Path, tmp_path: Path) -> None:
    need_loops()
    neighbour = tmp_path / "builds" / "0123456789abc"  # a name that begins like ours
    neighbour.mkdir()
    ours, deleted, theirs = attach(work / "a.raw"), attach(work / "b.raw"), attach(neighbour / "a.raw")
    (work / "b.raw").unlink()
    try:
        removal.remove(ResourceKind.LOOP, str(work))
        assert [is_attached(node) for node in (ours, deleted, theirs)] == [False, False, True]
    finally:
        subprocess.run(["losetup", "-d", theirs], check=True)


def test_a_partitioned_loop_is_detached(work: Path) -> None:
    need_loops()
    need("sfdisk")
    node = attach(work / "disk.raw")
    subprocess.run(["sfdisk", "-q", node], input="1M,,L\n", text=True, check=True, capture_output=True)
    subprocess.run(["partx", "-u", node], check=True)
    assert Path(f"/sys/block/{Path(node).name}/{Path(node).name}p1").exists()
    removal.remove(ResourceKind.LOOP, str(work))
    assert not is_attached(node)
    assert not Path(f"/sys/block/{Path(node).name}/{Path(node).name}p1").exists()


def test_a_loop_with_a_mounted_file_system_goes_with_the_folder(work: Path) -> None:
    need_loops()
    need("mkfs.ext4")
    node = attach(work / "disk.raw")
    subprocess.run(["mkfs.ext4", "-q", node], check=True)
    (work / "mnt").mkdir()
    subprocess.run(["mount", node, str(work / "mnt")], check=True)
    removal.remove(ResourceKind.DIRECTORY, str(work))
    assert not work.exists()
    assert not is_attached(node)


@pytest.mark.parametrize("memory", [True, False], ids=["in memory", "on a file system of its own"])
def test_a_loop_of_a_dead_mount_namespace_is_found(work: Path, tmp_path: Path, memory: bool) -> None:
    """The kernel names its file from the root of the file system then: nothing of our path may be left."""
    need_loops()
    need("unshare")
    where = work / "tmp" if memory else tmp_path / "builds"
    removal.mount_tmpfs(where, 64 << 20)
    inside = where if memory else work
    inside.mkdir(exist_ok=True)
    (inside / "disk.raw").write_bytes(b"\0" * (1 << 20))
    node = subprocess.check_output(
        ["unshare", "--mount", "--propagation", "private", "losetup", "--show", "-f", str(inside / "disk.raw")],
        text=True,
    ).strip()
    removal.remove(ResourceKind.LOOP, str(work))
    assert not is_attached(node)
    removal.remove(ResourceKind.DIRECTORY, str(work))
    if not memory:
        subprocess.run(["umount", str(where)], check=True)
