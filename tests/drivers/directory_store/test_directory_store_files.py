"""What the directory store's folder holds: sparse files that refuse a write, described; and what a hand has done to it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from imageflow.errors import Corrupt
from imageflow.host.control import Control
from imageflow.model import Artifact
from imageflow.stores import ImageRef
from tests.drivers.directory_store.image_folder import open_store, write


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


def test_list_passes_over_what_is_not_ours(images: Path, tmp_path: Path) -> None:
    store = open_store(images)
    ref: ImageRef = store.add(write(tmp_path / "work"), build_id="b1", control=Control())
    (images / "lost+found").mkdir()
    (images / ("c" * 64)).write_text("a file where a folder should be")
    (images / ("d" * 64)).mkdir()
    assert list(store.list()) == [ref]
    store.delete("c" * 64)
    assert (images / ("c" * 64)).exists()
