"""What a search of a finished image says: the path of the file, in disks and archives that are made here."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from imageflow.content.secret_search import SecretSearch
from imageflow.errors import NotSealed
from imageflow.host.control import Control
from imageflow.tasks import leaks
from tests.drivers.machine import need

SECRET = "s3cret/value+"


@pytest.fixture
def control() -> Control:
    return Control(time.monotonic() + 60)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/plain").write_text(f"password {SECRET}\n")
    (tree / "etc/packed.gz").write_bytes(gzip.compress(b"x" * 9000 + SECRET.encode()))
    (tree / "etc/clean").write_bytes(b"y" * 100_000)
    return tree


def ext4(tree: Path, disk: Path, offset: int = 0) -> None:
    need("mkfs.ext4", "debugfs", "sfdisk")
    with disk.open("wb") as file:
        file.truncate(offset + (16 << 20))
    command = ["mkfs.ext4", "-q", "-d", str(tree), "-E", f"offset={offset}", str(disk), "16M"]
    subprocess.run(command, check=True)


EXPECTED = ["/etc/packed.gz (compressed, as it is)", "/etc/plain (as it is)"]


def test_in_a_disk_without_partitions(tree: Path, tmp_path: Path, control: Control) -> None:
    ext4(tree, tmp_path / "disk.raw")
    assert sorted(leaks.in_disk(SecretSearch([SECRET]), tmp_path / "disk.raw", control)) == EXPECTED


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_in_a_partition(tree: Path, tmp_path: Path, control: Control, label: str) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(20 << 20)
    table = f"label: {label}\nstart=2048, size=2048\nstart=4096\n"
    subprocess.run(["sfdisk", "-q", disk], input=table.encode(), check=True)
    ext4(tree, tmp_path / "part")
    with disk.open("r+b") as file:
        file.seek(1 << 20)
        file.write(SECRET.encode())
        file.seek(2 << 20)
        file.write((tmp_path / "part").read_bytes())
        file.truncate(20 << 20)
    found = sorted(leaks.in_disk(SecretSearch([SECRET]), disk, control))
    assert found == [
        "/etc/packed.gz of partition 2 (compressed, as it is)",
        "/etc/plain of partition 2 (as it is)",
        "byte 0 of partition 1 (as it is)",
    ]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_in_an_archive(tree: Path, tmp_path: Path, control: Control, mode: str) -> None:
    archive = tmp_path / "image.tar"
    with tarfile.open(archive, mode) as made:  # type: ignore[call-overload]
        made.add(tree, ".")
        entry = tarfile.TarInfo(f"./opt/{SECRET}")
        made.addfile(entry, io.BytesIO())
    named = f"/opt/{SECRET} (as it is)"
    assert sorted(leaks.in_archive(SecretSearch([SECRET]), archive, control)) == [*EXPECTED, named]


def test_a_message_names_a_few_places_and_the_way_out() -> None:
    leaks.refuse([], str)
    with pytest.raises(
        NotSealed, match=r"in the image: /0, /1, /2, \*\*\*, /4 and 3 more places \(keep it out"
    ) as error:
        leaks.refuse((f"/{number}" for number in range(8)), lambda text: text.replace("/3", "***"))
    assert "abort this build" in error.value.hint
