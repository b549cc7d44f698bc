"""The directory store, broken on purpose: killed at every line, full, read-only, raced, edited by hand."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from imageflow import config
from imageflow.control import Control
from imageflow.errors import Corrupt, NoSpace, Refused
from imageflow.model import Artifact
from imageflow.stores import ImageRef
from imageflow.stores.directory import DirectoryStore


def open_store(images: Path) -> DirectoryStore:
    return DirectoryStore(dataclasses.replace(config.load(state_dir=str(images.parent)), store_path=images))


def write(folder: Path, seed: bytes = b"a", size: int = 64 << 10) -> list[tuple[Path, Artifact]]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, content in (
        ("disk.raw", hashlib.sha256(seed).digest() * (size // 32)),
        ("list", b"bash\n"),
    ):
        (folder / name).write_bytes(content)
        made.append(
            (
                folder / name,
                Artifact(name, "raw", len(content), hashlib.sha256(content).hexdigest()),
            )
        )
    return made


def fork(work: Callable[[], Any], *, kill_at: int | None = None) -> int:
    """Run `work` in a process of its own; -> its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            if kill_at is not None:
                sys.settrace(_killer(kill_at))
            work()
            os._exit(0)
        finally:  # whatever it raised: this process must not go on as a second pytest
            traceback.print_exc()
            os._exit(1)
    return pid


def in_child(work: Callable[[], Any], *, kill_at: int | None = None) -> int:
    """Run `work` in a process of its own; -> its exit code, -9 if it was killed at its `kill_at`th line."""
    return os.waitstatus_to_exitcode(os.waitpid(fork(work, kill_at=kill_at), 0)[1])


def _killer(lines: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that ends this process at the given line of the store's code, like kill -9 would."""
    left = lines

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if "imageflow/stores/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return trace

    return trace


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture(params=["same file system", "another file system"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Where the build leaves its files: linked into the store from here, copied from there."""
    if request.param == "same file system":
        yield tmp_path / "work"
        return
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    folder = shm / f"imageflow-test-{os.getpid()}"
    try:
        yield folder
    finally:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink()
        folder.rmdir()


@pytest.mark.parametrize(("move", "before"), [(False, "absent"), (True, "damaged")])
def test_add_killed_at_every_line(images: Path, work: Path, move: bool, before: str) -> None:
    """Whatever the moment: nothing or all is seen, the next worker gets it done, tidy removes the rest."""
    point = 0
    while True:
        store = open_store(images)
        files = write(work)
        digest = files[0][1].digest
        if before == "damaged":
            store.add(files, build_id="old", control=Control())
            (images / digest / "list").unlink()
        code = in_child(
            partial(store.add, files, build_id="b1", control=Control(), move=move),
            kill_at=point,
        )
        assert code in (0, -signal.SIGKILL)
        seen = store.find(digest)
        if seen is not None:
            store.verify(digest, Control())
            assert list(store.list("b1")) == [seen]
        ref = store.add(files, build_id="b1", control=Control(), move=move)
        assert seen in (None, ref)
        store.verify(digest, Control())
        store.tidy(lambda build_id: build_id == "b1")
        store.tidy(lambda build_id: False)
        assert sorted(os.listdir(images)) == [".lock", digest]
        assert sorted(os.listdir(images / digest)) == ["disk.raw", "image.json", "list"]
        store.delete(digest)
        if code == 0:
            break
        point += 1
    assert point > 80  # it really died in many places


def test_delete_and_shares_killed_at_every_line(images: Path, tmp_path: Path) -> None:
    """A version is whole or gone; its shares are never fewer than the builds that still have one."""
    point, alive = 0, True
    while alive:
        store = open_store(images)
        files = write(tmp_path / "work")
        digest = files[0][1].digest
        store.add(files, build_id="good", control=Control())
        codes = [
            in_child(
                partial(store.add, files, build_id="forced", control=Control()),
                kill_at=point,
            ),
            in_child(partial(store.delete, digest, build_id="forced"), kill_at=point),
        ]
        store.verify(digest, Control())
        assert len(store.list("good")) == 1
        store.delete(digest, build_id="forced")
        codes.append(in_child(partial(store.delete, digest, build_id="good"), kill_at=point))
        if store.find(digest) is not None:
            store.verify(digest, Control())
        store.delete(digest, build_id="good")
        assert store.list() == []
        store.tidy(lambda build_id: True)
        assert sorted(os.listdir(images)) == [".lock"]
        alive = any(codes)
        point += 1
    assert point > 20


def test_tidy_leaves_what_living_builds_are_making(images: Path, tmp_path: Path) -> None:
    store = open_store(images)
    images.mkdir()
    files = write(tmp_path / "work")
    left: set[str] = set()
    for build_id in ("dead", "living"):
        for point in range(0, 200, 5):
            in_child(
                partial(store.add, files, build_id=build_id, control=Control()),
                kill_at=point,
            )
            if any(name.startswith(f".adding-{build_id}-") for name in os.listdir(images)):
                break
        store.delete(files[0][1].digest)
        left = {name for name in os.listdir(images) if name.startswith(".adding-")}
        assert any(build_id in name for name in left)
    (images / ".lost+found").mkdir()
    (images / "notes").mkdir()
    gone = store.tidy(lambda build_id: build_id == "living")
    assert gone == [name for name in sorted(left) if "-dead-" in name]
    assert sorted(os.listdir(images)) == sorted([".lock", ".lost+found", "notes", *(left - set(gone))])


def test_many_at_once(images: Path, tmp_path: Path) -> None:
    """Builds that add and delete the same bytes: between a build's add and its delete, the image is whole."""
    files = write(tmp_path / "work", size=1 << 20)
    digest = files[0][1].digest

    def live(build_id: str) -> None:
        store, chance = open_store(images), random.Random(build_id)
        for _ in range(40):
            ref = store.add(files, build_id=build_id, control=Control())
            for _ in range(chance.randrange(3)):
                assert store.find(digest) == ref
                with store.open(ref) as file:
                    assert hashlib.sha256(file.read()).hexdigest() == digest
            store.delete(digest, build_id=build_id)

    children = [fork(partial(live, f"b{number}")) for number in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0, 0]
    assert open_store(images).list() == []
    assert os.listdir(images) == [".lock"]


def test_sparse_stays_sparse(images: Path, work: Path) -> None:
    work.mkdir()
    disk = work / "disk.raw"
    with disk.open("wb") as file:
        file.write(b"boot")
        file.seek(64 << 20)
        file.write(b"x" * 300_000)
        file.truncate(128 << 20)
    artifact = Artifact("disk.raw", "raw", 128 << 20, "a" * 64)
    store = open_store(images)
    ref = store.add([(disk, artifact)], build_id="b1", control=Control())
    out = store.copy_out(ref, None, images.parent / "out.raw", Control())
    for path in (Path(ref.path), out):
        assert path.stat().st_size == 128 << 20
        assert path.stat().st_blocks * 512 < 2 << 20
        assert subprocess.run(["cmp", disk, path], check=False).returncode == 0


def test_stored_files_refuse_a_write(images: Path, tmp_path: Path) -> None:
    for move in (False, True):
        ref = open_store(images).add(
            write(tmp_path / "w", b"%d" % move),
            build_id="b",
            control=Control(),
            move=move,
        )
        for path in Path(ref.path).parent.iterdir():
            assert path.stat().st_mode & 0o777 == 0o444


def test_the_store_explains_itself_without_the_database(images: Path, tmp_path: Path) -> None:
    files = write(tmp_path / "work")
    ref = open_store(images).add(files, build_id="b1", control=Control())
    told = json.loads((images / ref.digest / "image.json").read_text())
    assert told["builds"] == ["b1"]
    assert told["created"] > 1.7e9
    assert [Artifact(**artifact) for artifact in told["artifacts"]] == [artifact for _, artifact in files]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        '{"artifacts": []}',
        '{"artifacts": [{"name": "../../x"}], "builds": [], "created": 1}',
    ],
)
def test_a_description_that_is_missing_or_nonsense(images: Path, tmp_path: Path, text: str | None) -> None:
    store = open_store(images)
    files = write(tmp_path / "work")
    digest = store.add(files, build_id="b1", control=Control()).digest
    (images / digest / "image.json").unlink()
    if text is not None:
        (images / digest / "image.json").write_text(text)
    assert store.find(digest) is None
    assert store.list() == []
    with pytest.raises(Corrupt, match=r"image\.json"):
        store.verify(digest, Control())
    store.add(files, build_id="b2", control=Control())
    store.verify(digest, Control())
    (images / digest / "image.json").unlink()
    store.delete(digest, build_id="b2")
    assert os.listdir(images) == [".lock"]


def test_a_file_replaced_by_a_link_is_not_read(images: Path, tmp_path: Path) -> None:
    store = open_store(images)
    ref = store.add(write(tmp_path / "work"), build_id="b1", control=Control())
    Path(ref.path).unlink()
    Path(ref.path).symlink_to(tmp_path / "work" / "disk.raw")
    assert store.find(ref.digest) is None
    with pytest.raises(Corrupt, match=r"disk\.raw"):
        store.verify(ref.digest, Control())


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


def test_a_worker_that_lost_its_claim_does_not_publish(images: Path, tmp_path: Path) -> None:
    class LostAtTheEnd(Control):
        """Says stop once the description is written: the copy is done, only the last step is left."""

        def check(self) -> None:
            if list(images.glob(".adding-*/image.json")):
                self.stop(Refused("the claim is lost"))
            super().check()

    files = write(tmp_path / "work")
    with pytest.raises(Refused, match="claim"):
        open_store(images).add(files, build_id="b1", control=LostAtTheEnd(), move=True)
    assert os.listdir(images) == [".lock"]
    assert all(path.exists() for path, _ in files)


def test_list_passes_over_what_is_not_ours(images: Path, tmp_path: Path) -> None:
    store = open_store(images)
    ref: ImageRef = store.add(write(tmp_path / "work"), build_id="b1", control=Control())
    (images / "lost+found").mkdir()
    (images / ("c" * 64)).write_text("a file where a folder should be")
    (images / ("d" * 64)).mkdir()
    assert list(store.list()) == [ref]
    store.delete("c" * 64)
    assert (images / ("c" * 64)).exists()
