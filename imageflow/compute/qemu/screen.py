"""Converts screenshots to PNG: every QEMU writes PPM, but only newer versions and some builds write PNG."""

from __future__ import annotations

import re
import struct
import zlib

_PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s", re.DOTALL)


def png(ppm: bytes) -> bytes:
    """Convert a binary PPM with eight bits per colour; raises ValueError for anything else."""
    head = _PPM.match(ppm)
    if head is None:
        raise ValueError("not a PPM file")
    width, height = int(head[1]), int(head[2])
    pixels = ppm[head.end() :]
    line = width * 3
    if len(pixels) < line * height:
        raise ValueError("a PPM file that was cut off")
    lines = b"".join(b"\0" + pixels[row * line : (row + 1) * line] for row in range(height))
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(lines, 6)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
