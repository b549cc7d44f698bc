"""What diskimage-builder runs share: their caches, and when an entry is made anew."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from imageflow.dib import cache


@pytest.fixture
def elements(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name in ("debootstrap", "debian-minimal", "plain"):
        (tmp_path / "elements" / name / ("root.d" if name != "plain" else "install.d")).mkdir(parents=True)
        found[name] = tmp_path / "elements" / name
    return found


PINS = {"archive:bookworm": "aa", "tool:debootstrap": "1", "diskimage-builder": "3.43", "element:plain": "p"}


def test_a_cached_system_is_known_by_all_that_shapes_it(elements: dict[str, Path]) -> None:
    def key(pins: dict[str, str] = PINS, arch: str = "amd64", **env: str) -> str | None:
        return cache.bootstrap_key(elements, env, pins, arch)

    first = key()
    assert first
    assert key(PINS | {"element:plain": "other"}) == first, "an element without a hand in it"
    assert key(SOMETHING="else") == first
    others = {
        key(PINS | {"archive:bookworm": "bb"}),
        key(PINS | {"tool:debootstrap": "2"}),
        key(PINS | {"diskimage-builder": "3.44"}),
        key(PINS | {"element:debian-minimal": "x"}),
        key(arch="arm64"),
        key(DIB_RELEASE="trixie"),
    }
    assert len(others | {first}) == 7
    assert key({name: pin for name, pin in PINS.items() if not name.startswith("archive")}) is None


def build_with(shared: Path, private: Path, packages: list[str], key: str = "k") -> dict[str, str]:
    """What a build does to the caches."""
    mine = cache.Cache(shared, private, key)
    told = mine.fill()
    if "IMAGEFLOW_BOOTSTRAP_SAVE" in told:
        Path(told["IMAGEFLOW_BOOTSTRAP_SAVE"]).write_bytes(b"s" * 2_000_000)
    for package in packages:
        (private / "apt/debian").mkdir(parents=True, exist_ok=True)
        (private / "apt/debian" / package).write_text(package)
    mine.take_back(lambda: True)
    return told


def test_the_second_build_gets_what_the_first_made(tmp_path: Path) -> None:
    first = build_with(tmp_path / "shared", tmp_path / "one", ["a.deb"])
    assert "IMAGEFLOW_BOOTSTRAP_SAVE" in first
    second = build_with(tmp_path / "shared", tmp_path / "two", ["b.deb"])
    assert second["DIB_DEBIAN_USE_DEBOOTSTRAP_CACHE"] == "1"
    assert Path(second["IMAGEFLOW_BOOTSTRAP_CACHED"]).stat().st_size == 2_000_000
    assert (tmp_path / "two/imageflow-packages/debian/a.deb").read_text() == "a.deb"
    assert sorted(file.name for file in (tmp_path / "shared/image-create/apt/debian").iterdir()) == ["a.deb", "b.deb"]


def test_a_system_of_an_archive_that_has_moved_on_is_not_kept(tmp_path: Path) -> None:
    mine = cache.Cache(tmp_path / "shared", tmp_path / "one", "k")
    Path(mine.fill()["IMAGEFLOW_BOOTSTRAP_SAVE"]).write_text("newer than its key")
    mine.take_back(lambda: False)
    assert "IMAGEFLOW_BOOTSTRAP_SAVE" in cache.Cache(tmp_path / "shared", tmp_path / "two", "k").fill()


def test_half_made_files_are_never_taken(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "image-create/apt/debian").mkdir(parents=True)
    (shared / "image-create/apt/debian/.x.deb.1.2.partial").write_text("half")
    (shared / "image-create/apt/debian/partial").mkdir()
    (shared / "image-create/apt/debian/partial/y.deb").write_text("half")
    cache.Cache(shared, tmp_path / "one", None).fill()
    assert list((tmp_path / "one").rglob("*.deb*")) == []


def test_many_builds_at_once_share_safely(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def build(number: int) -> None:
        try:
            for turn in range(5):
                packages = ["a.deb", f"{number}.deb"]
                told = build_with(tmp_path / "shared", tmp_path / f"{number}-{turn}", packages, key=f"k{turn % 2}")
                if taken := told.get("IMAGEFLOW_BOOTSTRAP_CACHED"):
                    assert Path(taken).stat().st_size == 2_000_000
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=build, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list((tmp_path / "shared").rglob("*.partial")) == []


def test_old_systems_go(tmp_path: Path) -> None:
    for number in range(8):
        build_with(tmp_path / "shared", tmp_path / str(number), [], key=f"k{number}")
        os.utime(tmp_path / f"shared/bootstrap/k{number}.tar.gz", (number, number))
    cache.Cache(tmp_path / "shared", tmp_path / "x", "k7").prune()
    assert sorted(file.name for file in (tmp_path / "shared/bootstrap").iterdir()) == [
        f"k{n}.tar.gz" for n in (4, 5, 6, 7)
    ]
