"""Remastered ISOs hold the same tree with one other boot entry, read by other programs than ours."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from imageflow.errors import Refused
from imageflow.host.control import Control
from imageflow.iso import Answers
from imageflow.iso.media import inspect
from imageflow.iso.remaster import remaster
from imageflow.iso.volume import VolumeReader, trees
from tests.drivers import vendor_iso
from tests.drivers.iso.remastered_iso import PRESEED, digests, extracted, made, plain, read
from tests.drivers.machine import need
from tests.drivers.vendor_iso import Vendor


def test_the_tree_of_the_first_partition_changes_too(tmp_path: Path) -> None:
    vendor_iso.need_iso_tools()
    it = made(vendor_iso.debian(tmp_path, "-partition_offset", "16"), tmp_path / "it.iso")
    assert b"imageflow" in read(it, "/isolinux/isolinux.cfg")
    first, count = struct.unpack_from("<II", it.read_bytes(), 446 + 8)
    assert (first, first + count) == (64, it.stat().st_size // 512)
    (tmp_path / "partition").write_bytes(it.read_bytes()[first * 512 :])
    assert b"imageflow" in read(tmp_path / "partition", "/isolinux/isolinux.cfg")
    assert read(tmp_path / "partition", "/imageflow/answers.gz") == read(it, "/imageflow/answers.gz")
    assert read(tmp_path / "partition", "/a/b/c/d/e/f/g/h/i/j/deep.txt") == b"ten levels\n"


@pytest.mark.parametrize("vendor", ["debian", "fedora"])
def test_all_else_is_the_same(vendor: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    theirs: Vendor = request.getfixturevalue(vendor)
    kind = Answers.PRESEED if vendor == "debian" else Answers.KICKSTART
    it = made(theirs, tmp_path / "it.iso", kind)
    before, after = digests(extracted(theirs.iso, tmp_path / "before")), digests(extracted(it, tmp_path / "after"))
    configurations = set(inspect(theirs.iso).isolinux) | set(inspect(theirs.iso).grub)
    changed = {name for name in before if before[name] != after.get(name)}
    # the EFI boot image holds a configuration of GRUB's, in Fedora's way
    assert changed == {name.lstrip("/") for name in configurations} | (
        {"boot/grub/efi.img"} if vendor == "fedora" else set()
    )
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"imageflow"}
    # byte for byte where they were: what differs in the vendor's range is records, descriptors, tables, configurations
    old, new = theirs.iso.read_bytes(), it.read_bytes()[: theirs.iso.stat().st_size]
    other = sum(1 for at in range(0, len(old), 2048) if old[at : at + 2048] != new[at : at + 2048])
    assert other < 120, f"{other} sectors differ"


def test_other_programs_see_a_whole_tree(debian: Vendor, tmp_path: Path) -> None:
    it = made(debian, tmp_path / "it.iso")
    names = {"/imageflow/answers.gz", "/imageflow/grub.cfg", "/a/b/c/d/e/f/g/h/i/j/deep.txt", "/install.amd/vmlinuz"}
    for option in ("-R", "-J"):
        if shutil.which("isoinfo"):
            done = subprocess.run(["isoinfo", option, "-f", "-i", str(it)], capture_output=True, text=True, check=True)
            assert names <= set(done.stdout.split("\n")), option
    for namespace in ("rr_path", "joliet_path"):  # pycdlib refuses a tree whose tables or sizes are wrong
        assert b"initrd=/install.amd/initrd.gz,/imageflow/answers.gz" in read(it, "/isolinux/isolinux.cfg", namespace)
        assert read(it, "/a/b/c/d/e/f/g/h/i/j/deep.txt", namespace) == b"ten levels\n"
    done = subprocess.run(
        ["xorriso", "-indev", str(it), "-report_el_torito", "plain", "-report_system_area", "plain"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "BIOS" in done.stdout and "UEFI" in done.stdout
    assert "FAILURE" not in done.stderr


def test_partition_tables_are_whole(debian: Vendor, tmp_path: Path) -> None:
    it = made(debian, tmp_path / "it.iso")
    data = it.read_bytes()
    assert len(data) % (1 << 20) == 0
    blocks = len(data) // 512
    mine, other, first, last = struct.unpack_from("<QQQQ", data, 512 + 24)
    assert (mine, other) == (1, blocks - 1)
    for at in (512, (blocks - 1) * 512):
        header = bytearray(data[at : at + 92])
        array, count, size, crc = struct.unpack_from("<QIII", header, 72)
        signed = struct.unpack_from("<I", header, 16)[0]
        struct.pack_into("<I", header, 16, 0)
        assert zlib.crc32(header) == signed
        assert zlib.crc32(data[array * 512 : array * 512 + count * size]) == crc
    assert first <= last < blocks - 33
    assert struct.unpack_from("<I", data, 446 + 12)[0] == blocks
    if shutil.which("sgdisk"):
        done = subprocess.run(["sgdisk", "-v", str(it)], capture_output=True, text=True)
        assert "CRC" not in done.stdout + done.stderr, done.stdout


def test_the_same_input_gives_the_same_bytes(debian: Vendor, tmp_path: Path) -> None:
    one, two = made(debian, tmp_path / "1.iso"), made(debian, tmp_path / "2.iso")
    assert one.read_bytes() == two.read_bytes()
    assert made(debian, tmp_path / "3.iso", answer=b"d-i a/b string d\n").read_bytes() != one.read_bytes()


def test_the_efi_image_keeps_its_size(fedora: Vendor, tmp_path: Path) -> None:
    it = made(fedora, tmp_path / "it.iso", Answers.KICKSTART)
    (theirs,) = inspect(fedora.iso).grub_in_image
    with it.open("rb") as file:
        text = theirs.read(VolumeReader(file, it.stat().st_size)).decode()
    assert text.startswith("search ") and "configfile ($root)/imageflow/grub.cfg" in text
    assert len(text) == theirs.size


def test_what_is_seen(debian: Vendor, fedora: Vendor) -> None:
    media = inspect(debian.iso)
    assert (media.family, media.label, media.bios, media.uefi, media.hybrid) == (
        "debian",
        "Debian 12.7.0 amd64 n",
        True,
        True,
        True,
    )
    assert media.initrd == "/install.amd/initrd.gz"  # not the graphical one, though it is the default
    assert media.unattended == {"bios", "uefi"}
    assert inspect(fedora.iso).family == "anaconda"


@pytest.mark.parametrize("options", [("-r",), ("-J",), ("-J", "-joliet-long"), ("-U",)], ids=" ".join)
def test_other_kinds_of_names(options: tuple[str, ...], tmp_path: Path) -> None:
    need("xorriso")
    it = made(plain(tmp_path, *options), tmp_path / "it.iso")
    media = inspect(plain(tmp_path, *options).iso)
    assert media.family == "debian" and not media.hybrid and media.unattended == {"bios"}
    if "-r" in options:
        assert read(it, "/imageflow/answers.gz")
    elif "-J" in options:
        assert read(it, "/imageflow/answers.gz", "joliet_path")
    with pytest.raises(Refused, match="remastered by imageflow before"):
        remaster(it, tmp_path / "again.iso", Answers.PRESEED, PRESEED, control=Control())


def test_a_root_directory_of_many_sectors(tmp_path: Path) -> None:
    need("xorriso")
    files = {f"folder-{number:04}-of-many/{number}": f"{number}" for number in range(300)}
    files |= {f"zfile-{number}": "z" for number in range(100)}
    vendor = plain(tmp_path, tree=files)
    it = made(vendor, tmp_path / "it.iso")
    for namespace in ("rr_path", "joliet_path"):
        assert read(it, "/folder-0299-of-many/299", namespace) == b"299"
    after = digests(extracted(it, tmp_path / "after"))
    assert files.keys() <= after.keys()
    assert "imageflow/answers.gz" in after


def test_names_that_pycdlib_would_break(tmp_path: Path) -> None:
    need("xorriso")
    long = {f"pool/{'n' * length}": str(length) for length in range(180, 256, 5)}
    it = made(plain(tmp_path, "-r", tree=long), tmp_path / "it.iso")
    after = digests(extracted(it, tmp_path / "after"))
    assert {name: hashlib.sha256(text.encode()).hexdigest() for name, text in long.items()}.items() <= after.items()


@pytest.mark.slow
def test_a_file_of_more_than_4_gib(tmp_path: Path) -> None:
    """Sparse here; xorriso writes zeros, so the ISO is made sparse again."""
    need("xorriso", "fallocate")
    tree = tmp_path / "tree"
    vendor_iso.write(tree / "big", "")
    with (tree / "big").open("r+b") as file:
        file.truncate((4 << 30) + 12345)
        file.seek((4 << 30) + 12000)
        file.write(b"the end")
    vendor = plain(tmp_path)
    vendor_iso.run("fallocate", "--dig-holes", vendor.iso)
    it = made(vendor, tmp_path / "it.iso")
    assert it.stat().st_size > 4 << 30
    assert it.stat().st_blocks * 512 < 64 << 20, "holes were filled"
    assert read(it, "/imageflow/answers.gz")
    listed = subprocess.run(["xorriso", "-indev", str(it), "-lsl", "/big"], capture_output=True, text=True, check=True)
    assert f" {(4 << 30) + 12345} " in listed.stdout
    with it.open("rb") as file:
        big = trees(VolumeReader(file, it.stat().st_size))[0][0].find("/big")
        assert big is not None and big.size == (4 << 30) + 12345
        lba, size = big.extents[-1]
        file.seek(lba * 2048 + size - 345)
        assert file.read(7) == b"the end"
