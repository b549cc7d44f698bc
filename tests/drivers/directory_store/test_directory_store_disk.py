"""The directory store on a disk that is full or read-only, and for somebody who may only read."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.errors import NoSpace, Refused
from imageflow.host.control import Control
from tests.drivers.directory_store.image_folder import in_child, open_store, write


@contextlib.contextmanager
def tmpfs(at: Path, options: str) -> Iterator[Path]:
    """A small file system of its own; needs root, which CI has."""
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", at],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        if os.environ.get("CI") == "true":
            pytest.fail(f"can't mount a tmpfs: {mounted.stderr!r}")
        pytest.skip("can't mount a tmpfs")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def test_a_full_disk(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", "size=1m") as small:
        store = open_store(small / "images")
        files = write(tmp_path / "work", size=2 << 20)
        for move in (False, True):
            with pytest.raises(NoSpace, match="images") as caught:
                store.add(files, build_id="b1", control=Control(), move=move)
            assert "image delete" in caught.value.hint
            assert os.listdir(small / "images") == [".lock"]
            assert all(path.exists() for path, _ in files)
        ref = store.add(write(tmp_path / "little"), build_id="b2", control=Control())
        big = open_store(tmp_path / "big")
        whole = big.add(files, build_id="b1", control=Control())
        with pytest.raises(NoSpace):
            big.copy_out(whole, None, small / "out", Control())
        assert sorted(os.listdir(small)) == ["images"]
        (small / "fill").write_bytes(b"")
        with (
            contextlib.suppress(OSError),
            (small / "fill").open("wb", buffering=0) as file,
        ):
            while True:
                file.write(b"\0" * 4096)
        store.verify(ref.digest, Control())
        with pytest.raises(NoSpace):  # not even the words "forced made it too" have room
            store.add(write(tmp_path / "little"), build_id="forced", control=Control())
        assert store.find(ref.digest) == ref
        store.delete(ref.digest)
        assert os.listdir(small / "images") == [".lock"]


def test_a_read_only_file_system(tmp_path: Path) -> None:
    files = write(tmp_path / "work")
    with tmpfs(tmp_path / "ro", "size=8m") as mount:
        store = open_store(mount / "images")
        ref = store.add(files, build_id="b1", control=Control())
        (tmp_path / "ro" / "images" / ref.digest / "list").chmod(0o644)
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        assert store.find(ref.digest) == ref
        store.verify(ref.digest, Control())
        store.copy_out(ref, None, tmp_path / "out", Control())
        for work in (
            lambda: store.add(write(tmp_path / "other", b"b"), build_id="b2", control=Control()),
            lambda: store.delete(ref.digest),
        ):
            with pytest.raises(Refused, match="no permission") as caught:
                work()
            assert "read-only" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_who_may_only_read(tmp_path: Path, images: Path) -> None:
    store = open_store(images)
    ref = store.add(write(tmp_path / "work"), build_id="b1", control=Control())
    for folder in [images, *images.parents][:-2]:
        folder.chmod(0o755)

    def reader() -> None:
        os.setgid(65534)
        os.setuid(65534)
        assert store.find(ref.digest) == ref
        store.verify(ref.digest, Control())
        for work in (
            lambda: store.add([], build_id="b2", control=Control()),
            lambda: store.delete(ref.digest),
            lambda: store.delete(ref.digest, build_id="b1"),
        ):
            with pytest.raises(Refused):
                work()
        with pytest.raises(PermissionError):
            os.open(ref.path, os.O_RDWR)

    assert in_child(reader) == 0
    assert store.find(ref.digest) == ref
    images.chmod(0o700)

    def shut_out() -> None:
        os.setgid(65534)
        os.setuid(65534)
        for work in (
            lambda: store.find(ref.digest),
            store.list,
            lambda: store.verify(ref.digest, Control()),
        ):
            with pytest.raises(Refused, match="no permission"):
                work()

    assert in_child(shut_out) == 0
