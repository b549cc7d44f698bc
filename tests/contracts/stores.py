"""What every store promises: one suite for all drivers. A test module has a subclass, and provides the fixture `rig`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Protocol

import pytest

from imageflow.errors import Cancelled, Conflict, Corrupt, NotFound, Refused
from imageflow.host.control import Control
from imageflow.model import Artifact
from imageflow.stores import ImageRef, Store

NOBODY = "f" * 64


class Rig(Protocol):
    """One driver under test."""

    shares: bool  # whether builds that made the same bytes share one copy

    def store(self) -> Store:
        """A new client of the same place."""

    def damage(self, ref: ImageRef, name: str, how: str) -> None:
        """Behind the store's back: 'flip' a bit, 'truncate' or 'remove' a file."""


def damage(file: Path, how: str) -> None:
    """'flip' a bit in its middle, or 'truncate' it by a byte."""
    size = file.stat().st_size
    if how == "truncate":
        os.truncate(file, size - 1)
        return
    with file.open("r+b") as content:
        content.seek(size // 2)
        byte = content.read(1)
        content.seek(-1, os.SEEK_CUR)
        content.write(bytes([byte[0] ^ 1]))


def image(folder: Path, seed: bytes = b"a", size: int = 100_000) -> list[tuple[Path, Artifact]]:
    """A disk and its manifest, as a build leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        ("web.qcow2", "qcow2"): hashlib.sha256(seed).digest() * (size // 32),
        ("web.manifest", "manifest"): b"bash 5\n",
    }
    made = []
    for (name, kind), content in contents.items():
        (folder / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        made.append((folder / name, Artifact(name, kind, len(content), digest, 1 << 30 if kind == "qcow2" else None)))
    return made


class StoreContract:
    """The tests of every driver."""

    @pytest.fixture
    def store(self, rig: Rig) -> Store:
        return rig.store()

    @pytest.fixture
    def control(self) -> Control:
        return Control()

    def test_what_was_added_is_found_whole(self, store: Store, rig: Rig, tmp_path: Path, control: Control) -> None:
        files = image(tmp_path / "work")
        digest = files[0][1].digest
        assert store.find(digest) is None
        assert store.list() == []
        ref = store.add(files, build_id="b1", control=control)
        assert ref.digest == digest
        assert ref.store == store.name
        assert ref.path
        assert ref.artifacts == tuple(artifact for _, artifact in files)
        for other in (store, rig.store()):
            assert other.find(digest) == ref
            assert list(other.list()) == [ref]
            for path, artifact in files:
                with other.open(ref, artifact.name) as file:
                    assert file.read() == path.read_bytes()
        with store.open(ref) as file:
            assert file.read() == files[0][0].read_bytes()
        done: list[float] = []
        store.verify(digest, control, done.append)
        assert done == sorted(done)
        assert done[-1] == 1.0

    def test_it_knows_its_place_before_it_reaches_it(self, store: Store, rig: Rig) -> None:
        store.configured()
        assert store.place[0] == store.name
        assert store.place == rig.store().place
        store.check_properties({"os_distro": "debian"})

    def test_what_was_used_is_ready(self, store: Store, tmp_path: Path, control: Control) -> None:
        store.add(image(tmp_path / "work"), build_id="b1", control=control)
        store.ready(used=True)

    def test_add_copies_or_takes(self, store: Store, tmp_path: Path, control: Control) -> None:
        files = image(tmp_path / "work")
        store.add(files, build_id="b1", control=control)
        assert all(path.exists() for path, _ in files)
        taken = image(tmp_path / "work2", b"z")
        ref = store.add(taken, build_id="b2", control=control, move=True)
        assert not any(path.exists() for path, _ in taken)
        store.verify(ref.digest, control)

    def test_adding_again_finds_the_first(self, store: Store, rig: Rig, tmp_path: Path, control: Control) -> None:
        first = store.add(image(tmp_path / "one"), build_id="b1", control=control)
        again = image(tmp_path / "two")
        (again[1][0]).write_bytes(b"other words")
        second = store.add([again[0]], build_id="b2", control=control)
        assert second.digest == first.digest
        assert (second == first) is rig.shares
        assert store.find(first.digest) == first
        assert store.find(first.digest, "b2") == second
        assert store.find(first.digest, "b3") == first
        assert store.add(image(tmp_path / "one"), build_id="b1", control=control) == first
        for path, _ in image(tmp_path / "one"):  # stored by a worker that died before it recorded that
            path.unlink()
        assert (
            store.add([(tmp_path / "one" / a.name, a) for a in first.artifacts], build_id="b1", control=control)
            == first
        )
        assert list(store.list()) == [first]

    def test_list_knows_who_made_what(self, store: Store, rig: Rig, tmp_path: Path, control: Control) -> None:
        one = store.add(image(tmp_path / "one", b"1"), build_id="b1", control=control)
        two = store.add(image(tmp_path / "two", b"2"), build_id="b2", control=control)
        assert list(store.list()) == [one, two]
        assert list(store.list("b1")) == [one]
        assert list(store.list("b2")) == [two]
        assert list(store.list("b3")) == []
        three = store.add(image(tmp_path / "three", b"1"), build_id="b2", control=control)
        assert list(store.list("b2")) == ([one, two] if rig.shares else [two, three])
        assert list(store.list()) == [one, two]

    def test_a_revert_removes_only_its_own_share(self, store: Store, tmp_path: Path, control: Control) -> None:
        ref = store.add(image(tmp_path / "one"), build_id="good", control=control)
        store.delete(ref.digest, build_id="stranger")
        assert store.find(ref.digest) == ref
        store.add(image(tmp_path / "two"), build_id="forced", control=control)
        store.delete(ref.digest, build_id="forced")
        assert store.find(ref.digest) == ref
        store.verify(ref.digest, control)
        store.delete(ref.digest, build_id="good")
        assert store.find(ref.digest) is None
        assert store.list() == []

    def test_delete_is_for_all_and_absent_is_fine(self, store: Store, tmp_path: Path, control: Control) -> None:
        ref = store.add(image(tmp_path / "one"), build_id="b1", control=control)
        store.add(image(tmp_path / "two"), build_id="b2", control=control)
        store.delete(ref.digest)
        assert store.find(ref.digest) is None
        store.delete(ref.digest)
        store.delete(NOBODY, build_id="b1")
        with pytest.raises(NotFound):
            store.verify(ref.digest, control)
        with pytest.raises(NotFound):
            store.open(ref)
        with pytest.raises(NotFound):
            store.copy_out(ref, None, tmp_path / "out", control)
        assert not (tmp_path / "out").exists()

    def test_a_digest_is_not_a_path(self, store: Store, tmp_path: Path, control: Control) -> None:
        ref = store.add(image(tmp_path / "one"), build_id="b1", control=control)
        for digest in ("", ".", "..", "../images", "/etc", "F" * 64, "a" * 63, "a" * 64 + "\n", "\0" * 64):
            assert store.find(digest) is None
            store.delete(digest)
            with pytest.raises(NotFound):
                store.verify(digest, control)
        assert list(store.list()) == [ref]

    @pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "image.json", "a\0b"])
    def test_a_file_name_stays_in_its_version(self, store: Store, tmp_path: Path, control: Control, name: str) -> None:
        path, artifact = image(tmp_path / "one")[0]
        with pytest.raises(Refused):
            store.add([(path, dataclasses.replace(artifact, name=name))], build_id="b1", control=control)
        with pytest.raises(Refused):
            store.add([(path, artifact), (path, artifact)], build_id="b1", control=control)
        with pytest.raises(Refused):
            store.add([], build_id="b1", control=control)
        assert store.list() == []

    @pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
    @pytest.mark.parametrize("which", [0, 1])
    def test_damage_is_seen_and_named_and_mended(
        self, store: Store, rig: Rig, tmp_path: Path, control: Control, how: str, which: int
    ) -> None:
        ref = store.add(image(tmp_path / "one"), build_id="b1", control=control)
        name = ref.artifacts[which].name
        rig.damage(ref, name, how)
        with pytest.raises(Corrupt, match=name):
            store.verify(ref.digest, control)
        assert rig.store().find(ref.digest) is None
        with pytest.raises(Corrupt):
            store.verify(ref.digest, control)
        mended = store.add(image(tmp_path / "two"), build_id="b2", control=control)
        assert store.find(ref.digest) == mended
        store.verify(ref.digest, control)

    def test_a_source_that_is_missing_or_another_size(self, store: Store, tmp_path: Path, control: Control) -> None:
        files = image(tmp_path / "one")
        files[1][0].write_bytes(b"longer than it was")
        with pytest.raises(Corrupt, match=r"web\.manifest"):
            store.add(files, build_id="b1", control=control, move=True)
        files[1][0].unlink()
        with pytest.raises(NotFound, match=r"web\.manifest"):
            store.add(files, build_id="b1", control=control, move=True)
        assert files[0][0].exists()
        assert store.list() == []

    def test_a_stop_leaves_nothing(self, store: Store, tmp_path: Path) -> None:
        files = image(tmp_path / "one")
        control = Control()
        control.stop(Cancelled())
        with pytest.raises(Cancelled):
            store.add(files, build_id="b1", control=control, move=True)
        assert all(path.exists() for path, _ in files)
        assert store.find(files[0][1].digest) is None
        assert store.tidy(lambda build_id: False) == []
        ref = store.add(files, build_id="b1", control=Control())
        for work in (
            lambda: store.verify(ref.digest, control),
            lambda: store.copy_out(ref, None, tmp_path / "out", control),
        ):
            with pytest.raises(Cancelled):
                work()
        assert store.find(ref.digest) == ref  # a verify that was stopped has found nothing wrong
        assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []

    def test_copy_out(self, store: Store, tmp_path: Path, control: Control) -> None:
        files = image(tmp_path / "one")
        ref = store.add(files, build_id="b1", control=control)
        (tmp_path / "folder").mkdir()
        assert store.copy_out(ref, None, tmp_path / "disk.qcow2", control) == tmp_path / "disk.qcow2"
        assert store.copy_out(ref, "web.manifest", tmp_path / "folder", control) == tmp_path / "folder" / "web.manifest"
        assert (tmp_path / "disk.qcow2").read_bytes() == files[0][0].read_bytes()
        with (tmp_path / "disk.qcow2").open("r+b") as file:  # it is the user's own, and not the store's
            file.write(b"changed")
        store.verify(ref.digest, control)
        with pytest.raises(Conflict):
            store.copy_out(ref, "web.manifest", tmp_path / "disk.qcow2", control)
        with pytest.raises(NotFound, match=r"web\.qcow2"):
            store.copy_out(ref, "web.iso", tmp_path / "x", control)
        with pytest.raises(NotFound):
            store.copy_out(ref, None, tmp_path / "no" / "folder", control)
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []

    def test_reading_goes_on_while_it_is_deleted(
        self, store: Store, rig: Rig, tmp_path: Path, control: Control
    ) -> None:
        files = image(tmp_path / "one", size=4 << 20)
        ref = store.add(files, build_id="b1", control=control)
        with store.open(ref) as file:
            assert file.read(10) == files[0][0].read_bytes()[:10]
            store.verify(ref.digest, control, lambda done: rig.store().delete(ref.digest))
            assert store.find(ref.digest) is None
            assert file.read() == files[0][0].read_bytes()[10:]

    def test_tidy_leaves_whole_versions(self, store: Store, tmp_path: Path, control: Control) -> None:
        ref = store.add(image(tmp_path / "one"), build_id="b1", control=control)
        assert list(store.tidy(lambda build_id: False)) == []
        assert list(store.list()) == [ref]
