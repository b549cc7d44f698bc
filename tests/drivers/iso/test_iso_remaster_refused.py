"""ISOs that can't be remastered, answers that don't fit them, and damage: refused, and never an error that is not ours."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from imageflow.errors import BadInput, Refused
from imageflow.host.control import Control
from imageflow.iso import Answers
from imageflow.iso.media import inspect
from imageflow.iso.remaster import remaster
from tests.cpu import spent
from tests.drivers import vendor_iso
from tests.drivers.iso.remastered_iso import PRESEED, plain
from tests.drivers.machine import need
from tests.drivers.vendor_iso import Vendor


def test_udf(tmp_path: Path, small: Vendor) -> None:
    data = bytearray(small.iso.read_bytes())
    end = next(at for at in range(16 * 2048, 30 * 2048, 2048) if data[at] == 255)
    data[end + 2048 : end + 2048 + 6] = b"\0NSR02"
    (tmp_path / "udf.iso").write_bytes(data)
    _refused(tmp_path / "udf.iso", "UDF")


def _refused(path: Path, words: str) -> None:
    with pytest.raises(Refused, match=words):
        inspect(path)
    to = path.with_name("out.iso")
    with pytest.raises(Refused, match=words):
        remaster(path, to, Answers.PRESEED, PRESEED, control=Control())
    assert [p.name for p in path.parent.glob("out.iso*")] == []


def test_truncated(small: Vendor) -> None:
    with small.iso.open("r+b") as file:
        file.truncate(small.iso.stat().st_size // 2)
    _refused(small.iso, "truncated")


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, b"\0" * (1 << 20), os.urandom(1 << 17)], ids=["empty", "tiny", "zeros", "noise"]
)
def test_not_an_iso(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "no.iso").write_bytes(content)
    _refused(tmp_path / "no.iso", "not an ISO 9660 image")


def test_no_boot_record(tmp_path: Path) -> None:
    need("xorriso")
    vendor_iso.write(tmp_path / "tree/a", "a")
    vendor_iso.run("xorriso", "-as", "mkisofs", "-quiet", "-r", "-o", tmp_path / "v.iso", tmp_path / "tree")
    _refused(tmp_path / "v.iso", "no boot record")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "default x\nlabel x\n kernel memdisk\n append initrd=/nothing\n",
        "label rescue\n kernel /install.amd/vmlinuz\n append initrd=/install.amd/initrd.gz\n",
    ],
    ids=["empty", "kernel is missing", "rescue only"],
)
def test_no_boot_configuration(text: str, tmp_path: Path) -> None:
    need("xorriso")
    _refused(plain(tmp_path, tree={"isolinux/isolinux.cfg": text}).iso, "no boot configuration")


def test_no_such_file(tmp_path: Path) -> None:
    _refused(tmp_path / "no.iso", "can't be read|can't be remastered")


@pytest.mark.parametrize("seed", range(40))
def test_damage_is_refused_or_harmless(seed: int, small: Vendor, tmp_path: Path) -> None:
    """Noise in descriptors and directories gives an error of ours, never another one, and never goes on for ever."""
    import random

    noise = random.Random(seed)
    data = bytearray(small.iso.read_bytes())
    for _ in range(noise.choice((1, 8, 60))):
        data[noise.randrange(16 * 2048, min(len(data), 60 * 2048))] = noise.randrange(256)
    (tmp_path / "bad.iso").write_bytes(data)
    try:
        inspect(tmp_path / "bad.iso")
        remaster(tmp_path / "bad.iso", tmp_path / "out.iso", Answers.PRESEED, PRESEED, control=Control())
    except Refused:
        assert not (tmp_path / "out.iso").exists()


def test_answers_that_the_installer_does_not_read(fedora: Vendor, small: Vendor, tmp_path: Path) -> None:
    for vendor, kind in ((fedora, Answers.PRESEED), (small, Answers.AUTOYAST), (small, Answers.AUTOINSTALL)):
        with pytest.raises(Refused, match="does not read"):
            remaster(vendor.iso, tmp_path / "x.iso", kind, b"", control=Control())


def test_arguments_of_two_lines(small: Vendor, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        remaster(small.iso, tmp_path / "x.iso", Answers.PRESEED, b"", arguments="a\nb", control=Control())


def _number(value: int) -> bytes:
    return struct.pack("<I", value) + struct.pack(">I", value)


def _record(ident: bytes, lba: int, size: int, system_use: bytes = b"") -> bytes:
    head = bytes(1) + _number(lba) + _number(size) + bytes(7) + b"\2" + bytes(2) + b"\1\0\0\1" + bytes([len(ident)])
    body = head + ident + bytes(1 - len(ident) % 2) + system_use
    body += bytes(len(body) % 2 ^ 1)
    return bytes([len(body) + 1]) + body


def test_continuations_without_end(small: Vendor) -> None:
    """Each of many records goes on in the same 60 KiB of the medium, which would be read for each of them."""
    data = bytearray(small.iso.read_bytes())
    data += bytes(-len(data) % 2048)
    area, root = len(data) // 2048, len(data) // 2048 + 32
    goes_on = b"CE\x1c\1" + _number(area) + _number(0) + _number(60 << 10)
    folder = _record(b"\0", root, 0, b"SP\7\1\xbe\xef\0") + _record(b"\1", root, 0)
    for number in range(6000):
        one = _record(b"%05d" % number, area, 0, goes_on)
        if len(folder) % 2048 + len(one) > 2048:
            folder += bytes(-len(folder) % 2048)
        folder += one
    folder += bytes(-len(folder) % 2048)
    data += bytes(32 * 2048) + folder
    data[16 * 2048 + 158 : 16 * 2048 + 174] = _number(root) + _number(len(folder))
    data[16 * 2048 + 80 : 16 * 2048 + 88] = _number(len(data) // 2048)
    small.iso.write_bytes(data)
    with spent() as seconds:
        _refused(small.iso, "directories have no end")
    assert seconds() < 10
