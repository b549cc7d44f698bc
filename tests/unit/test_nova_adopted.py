"""Images in a cloud that are not the driver nova's: adopted as layers of builds, let go of, and never taken for its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from imageflow.compute import Layer
from imageflow.compute.nova import layers, media
from imageflow.compute.nova.adopted import Adopted
from imageflow.openstack.image import GlanceImage

KEY, OTHER_KEY = "ab" * 32, "cd" * 32


def test_an_adopted_image_is_a_layer(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path / "layers")
    assert adopted.find(KEY) is None
    assert list(adopted.all()) == []
    put = adopted.put(KEY, "image-1", "raw", title="the base", build_id="one")
    found = adopted.find(KEY)
    assert found is not None
    assert (found.key, found.source, found.title) == (KEY, put.source, "the base")
    assert (found.source.path, found.source.format, found.source.layer) == ("image-1", "raw", KEY)
    assert (found.size, found.parent, found.build_id, found.holders) == (0, None, "one", ("one",))
    assert Adopted(tmp_path / "layers").find(KEY) == found  # whoever looks


def test_who_holds_an_adopted_image(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path)
    first = adopted.put(KEY, "image-1", "qcow2", title="the base", build_id="one")
    again = adopted.put(KEY, "image-2", "qcow2", title="the base", build_id="two")
    assert again.created == first.created
    assert again.source.path == "image-2"
    adopted.hold(KEY, "three")
    adopted.hold(KEY, "three")
    adopted.hold(OTHER_KEY, "three")  # one that is not there
    assert _holders(adopted) == {KEY: ("one", "three", "two")}
    adopted.release("one")
    adopted.release("nobody")
    assert _holders(adopted) == {KEY: ("three", "two")}


def _holders(adopted: Adopted) -> dict[str, tuple[str, ...]]:
    return {layer.key: layer.holders for layer in adopted.all()}


def test_an_adopted_image_that_is_forgotten_in_this_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgotten_after(look: str) -> Layer | None:
        """Find it, while another process removes its file as soon as that has been looked at so."""
        work = getattr(Path, look)

        def looked(path: Path, *words: Any, **more: Any) -> Any:
            result = work(path, *words, **more)
            if path.suffix == ".adopted":
                path.unlink(missing_ok=True)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(Path, look, looked)
            return Adopted(tmp_path).find(KEY)

    for look, there in (("read_text", True), ("stat", False)):
        Adopted(tmp_path).put(KEY, "image-1", "qcow2", title="the base", build_id="one")
        found = forgotten_after(look)
        assert (found is not None) is there
        assert found is None or found.source.path == "image-1"
        assert Adopted(tmp_path).find(KEY) is None


def test_to_let_go_of_an_image_is_not_to_use_it(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path)
    adopted.put(KEY, "image-1", "qcow2", title="the base", build_id="one")
    before = adopted.all()[0].used
    time.sleep(0.02)
    adopted.release("one")
    assert adopted.all()[0].used == pytest.approx(before, abs=1e-6)
    adopted.hold(KEY, "two")
    assert adopted.all()[0].used > before + 0.01


def test_forgetting_adopted_images(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path)
    adopted.put(KEY, "image-1", "qcow2", title="held", build_id="alive")
    adopted.put(OTHER_KEY, "image-2", "qcow2", title="not held", build_id="dead")
    assert adopted.collect(3600.0, lambda build: False) == []  # they were used just now
    gone = adopted.collect(0.0, lambda build: build == "alive")
    assert [layer.title for layer in gone] == ["not held"]
    assert list(_holders(adopted)) == [KEY]
    assert [layer.title for layer in adopted.collect(0.0, lambda build: False)] == ["held"]
    assert list(tmp_path.glob("*")) == []


def test_a_file_that_nobody_can_read_is_no_layer(tmp_path: Path) -> None:
    adopted = Adopted(tmp_path)
    (tmp_path / f"{KEY}.adopted").write_text('{"image": "half')
    assert adopted.find(KEY) is None
    assert list(adopted.all()) == []
    adopted.hold(KEY, "one")
    adopted.release("one")
    adopted.put(KEY, "image-1", "qcow2", title="the base", build_id="one")
    assert _holders(adopted) == {KEY: ("one",)}


WORKER = """
import sys
from pathlib import Path
from imageflow.compute.nova.adopted import Adopted
folder, name = Path(sys.argv[1]), sys.argv[2]
adopted = Adopted(folder)
print("ready", flush=True)
sys.stdin.readline()
for number in range(40):
    adopted.put("ab" * 32, "image-1", "qcow2", title="the base", build_id=f"{name}-{number}")
    adopted.hold("ab" * 32, f"{name}-held-{number}")
    assert adopted.find("ab" * 32) is not None
    adopted.release(f"{name}-{number}")
"""


def test_two_processes_adopt_one_image(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("one", "two")
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == b"ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate(timeout=60)
            assert worker.returncode == 0
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    expected = sorted(f"{name}-held-{number}" for name in ("one", "two") for number in range(40))
    assert _holders(Adopted(tmp_path)) == {KEY: tuple(expected)}
    assert [file.name for file in tmp_path.glob("*")] == [f"{KEY}.adopted"]


@pytest.mark.parametrize(
    ("name", "said", "mine"),
    [
        ("b1-main-disk", {"imageflow:machine": "b1-main", "imageflow:purpose": "disk"}, True),
        ("before I touch it", {"imageflow:machine": "b1-main", "imageflow:purpose": "blank"}, False),
        ("b1-main-", {}, False),
    ],
)
def test_a_snapshot_that_a_person_takes_of_a_machine_is_not_ours(name: str, said: dict[str, str], mine: bool) -> None:
    assert media.ours(GlanceImage("i", name, "active", {**said, "image_type": "snapshot"})) is mine


@pytest.mark.parametrize(
    ("name", "said", "mine"),
    [
        ("imageflow-layer-abababababab", {"imageflow:layer": "ab" * 32}, True),
        ("mine", {"imageflow:layer": "ab" * 32}, False),
        ("imageflow-layer-", {}, False),
    ],
)
def test_a_snapshot_that_a_person_takes_is_no_layer_of_ours(name: str, said: dict[str, str], mine: bool) -> None:
    assert layers.ours(GlanceImage("i", name, "active", {**said, "image_type": "snapshot"})) is mine
