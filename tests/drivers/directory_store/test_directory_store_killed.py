"""The directory store killed at every line, and used by many at once: an image is whole or not there."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
from functools import partial
from pathlib import Path

import pytest

from imageflow.errors import Refused
from imageflow.host.control import Control
from tests.drivers.directory_store.image_folder import fork, in_child, open_store, write


@pytest.mark.sliced(of=4)
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


def test_a_janitor_that_finishes_what_is_being_deleted_disturbs_nobody(images: Path, tmp_path: Path) -> None:
    store, control, over = open_store(images), Control(), threading.Event()
    digests = []
    for number in range(100):
        folder = tmp_path / f"made-{number}"
        folder.mkdir()
        files = write(folder, seed=str(number).encode(), size=1 << 10)
        digests.append(store.add(files, build_id=f"{number:012x}", control=control, move=True).digest)

    def tidy() -> None:
        while not over.is_set():
            store.tidy(lambda build_id: True)

    janitors = [threading.Thread(target=tidy) for _ in range(3)]
    for janitor in janitors:
        janitor.start()
    try:
        for digest in digests:
            store.delete(digest)
    finally:
        over.set()
        for janitor in janitors:
            janitor.join()
    assert list(store.list()) == []
    assert not [path for path in images.iterdir() if path.name.startswith(".deleting")]
