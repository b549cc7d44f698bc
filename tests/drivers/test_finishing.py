"""Disks are converted as asked, with holes, progress and a recognised full disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageflow.errors import Cancelled, CommandFailed, NoSpace
from imageflow.host import disk_files
from imageflow.host.control import Control

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw disk of 64 MiB: 8 MiB of text at its beginning, the rest a hole."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"".join(b"%015d\n" % number for number in range(8 * MIB // 16)))
    os.truncate(path, 64 * MIB)
    return path


def info(path: Path) -> dict[str, Any]:
    return dict(json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", path])))


def same(one: Path, other: Path) -> bool:
    return subprocess.run(["qemu-img", "compare", "-q", one, other], check=False).returncode == 0


def convert(source: Path, to: Path, output: str, format: str = "raw", **options: Any) -> int:
    options.setdefault("control", Control())
    return disk_files.convert(source, format, to, output, log=options.pop("log", print), **options)


def test_qcow2_is_compressed_with_zstd_and_progress_is_told(disk: Path, tmp_path: Path) -> None:
    seen: list[float] = []
    to = tmp_path / "made.qcow2"
    to.write_bytes(b"what an earlier worker left")
    assert convert(disk, to, "qcow2", progress=seen.append) == 64 * MIB
    assert same(disk, to)
    assert info(to)["format-specific"]["data"]["compression-type"] == "zstd"
    assert to.stat().st_size < 3 * MIB
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_the_options_of_the_recipe_win(disk: Path, tmp_path: Path) -> None:
    old, plain = tmp_path / "old.qcow2", tmp_path / "plain.qcow2"
    convert(disk, old, "qcow2", options={"compat": "0.10"})
    assert info(old)["format-specific"]["data"]["compat"] == "0.10"
    convert(disk, plain, "qcow2", options={"cluster_size": 131072}, compressed=False)
    assert info(plain)["cluster-size"] == 131072
    assert plain.stat().st_size > 8 * MIB
    assert same(disk, old)
    assert same(disk, plain)


def test_a_chain_of_layers_becomes_one_file(disk: Path, tmp_path: Path) -> None:
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    convert(disk, base, "qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top, "96M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 80M 1M", top], check=True, stdout=subprocess.DEVNULL)
    for output, virtual in (("qcow2", 96 * MIB), ("raw", 96 * MIB)):
        to = tmp_path / f"made.{output}"
        assert convert(top, to, output, "qcow2") == virtual
        assert "backing-filename" not in info(to)
        assert same(top, to)
        assert to.stat().st_blocks * 512 < 16 * MIB, "holes stay holes"


def test_raw_of_raw_is_the_same_file(disk: Path, tmp_path: Path) -> None:
    to = tmp_path / "made.raw"
    assert convert(disk, to, "raw") == 64 * MIB
    assert to.samefile(disk)


def test_vhd_is_dynamic(disk: Path, tmp_path: Path) -> None:
    to = tmp_path / "made.vhd"
    assert convert(disk, to, "vhd") >= 64 * MIB  # rounded up to whole cylinders
    assert info(to)["format"] == "vpc"
    assert to.stat().st_size < 32 * MIB


def test_a_broken_disk_is_said_to_be(tmp_path: Path) -> None:
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + bytes(2000))
    with pytest.raises(CommandFailed, match="qemu-img"):
        convert(broken, tmp_path / "made.qcow2", "qcow2", "qcow2")


def test_a_cancelled_build_stops_it(disk: Path, tmp_path: Path) -> None:
    control = Control()
    with pytest.raises(Cancelled):
        convert(disk, tmp_path / "x", "qcow2", control=control, progress=lambda _: control.stop(Cancelled()))


def test_the_digest_is_that_of_the_file(disk: Path) -> None:
    artifact = disk_files.artifact_of(disk, "raw", Control(), 64 * MIB)
    assert artifact.digest == hashlib.sha256(disk.read_bytes()).hexdigest()
    assert (artifact.name, artifact.format, artifact.size) == ("disk.raw", "raw", 64 * MIB)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "imageflow-test", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_recognised(disk: Path, small: Path) -> None:
    with pytest.raises(NoSpace, match="no space left") as caught:
        convert(disk, small / "made.qcow2", "qcow2", compressed=False)
    assert "resume" in caught.value.hint
    with pytest.raises(NoSpace):
        convert(disk, small / "made.raw", "raw")  # no link to another file system: copied
