"""The screen of a machine as a PNG."""

from __future__ import annotations

import struct
import zlib

import pytest

from imageflow.compute.qemu import screen


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG whose check sums are right."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, kinds = 8, []
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data = png[at + 4 : at + 8 + length]
        assert zlib.crc32(data) == struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0]
        kinds.append(kind)
        at += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("data", [b"", b"P5 1 1 255\n.", b"P6 2 2 255\n" + bytes(11), b"P6 1 1 65535\n......"])
def test_only_a_whole_picture_is_one(data: bytes) -> None:
    with pytest.raises(ValueError, match="PPM"):
        screen.png(data)
    assert size_of(screen.png(b"P6\n3 2\n255\n" + bytes(range(18)))) == (3, 2)
