"""Checks base disks before they are trusted: a machine may only start from a self-contained disk."""

from __future__ import annotations

from pathlib import Path

from imageflow.compute import qcow2
from imageflow.compute.files import trouble
from imageflow.errors import CommandFailed, Refused
from imageflow.host import process

SECTOR = 512  # bytes; a disk's size is a multiple of it


def check_base(file: Path, format: str) -> None:
    """Raise Refused unless it is a self-contained disk of this format: others could refer to files of this host."""
    try:
        header = qcow2.header(file)
    except OSError as error:
        raise trouble(error, file) from error
    if format == "raw":
        if header is not None:
            raise Refused("the base is a qcow2 file, not a raw one", hint="say format: qcow2")
        if file.stat().st_size < SECTOR:
            raise Refused("the base is empty: it can't be a disk")
        return
    if header is None:
        raise Refused("the base is not a qcow2 file", hint="say format: raw, or convert it with qemu-img")
    if header.backing is not None:
        raise Refused(
            f"the base has a backing file, {header.backing[:200]!r}",
            hint="make it whole: qemu-img convert -O qcow2 FILE NEW",
        )
    if header.outside:
        raise Refused("the base has its data in another file", hint="make it whole: qemu-img convert -O qcow2 FILE NEW")
    if header.encrypted:
        raise Refused("the base is encrypted")
    try:
        process.output(["qemu-img", "info", "-f", "qcow2", "--", str(file)])
    except CommandFailed as error:
        raise Refused(f"the base can't be read: {error.hint}") from error
