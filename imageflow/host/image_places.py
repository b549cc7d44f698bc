"""Which file of an image a byte belongs to: in a disk with ext file systems, and in a tar archive."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from imageflow.errors import CommandFailed, Refused
from imageflow.host import process
from imageflow.host.control import Control

_BLOCK_SIZE = re.compile(r"^Block size:\s+(\d+)", re.MULTILINE)
_FOUND = re.compile(r"^(\d+)\t(.*)$", re.MULTILINE)


def in_disk(raw: Path, at: int, control: Control) -> str:
    """The path of the file that holds this byte of a raw disk; the byte itself where that can't be told."""
    start, name = _partition(raw, at, control)
    path = _in_ext(raw, start, at - start, control)
    return f"{path or f'byte {at - start}'} of {name}" if name else path or f"byte {at}"


def in_archive(archive: Path, at: int) -> str:
    """The path of the file that holds this byte of a tar archive, or of what a compressed one decompresses to."""
    try:
        with tarfile.open(archive) as members:
            for member in members:
                if member.offset <= at < member.offset_data + member.size:
                    return "/" + member.name.removeprefix("./").lstrip("/")
    except (tarfile.TarError, OSError, EOFError):
        pass
    return f"byte {at}"


def _partition(raw: Path, at: int, control: Control) -> tuple[int, str]:
    """(start in bytes, name) of the partition; (0, '') in a disk without a table, or outside of all partitions."""
    try:
        table = json.loads(_said(["sfdisk", "--json", str(raw)], control) or "{}").get("partitiontable", {})
    except ValueError:
        table = {}
    sector = int(table.get("sectorsize", 512))
    for number, entry in enumerate(table.get("partitions", ()), 1):
        start, size = int(entry["start"]) * sector, int(entry["size"]) * sector
        if start <= at < start + size:
            return start, f"partition {number}"
    return 0, ""


def _in_ext(raw: Path, start: int, at: int, control: Control) -> str | None:
    disk = f"{raw}?offset={start}"
    size = _BLOCK_SIZE.search(_said(["debugfs", "-R", "stats -h", disk], control))
    if size is None:
        return None
    inode = _FOUND.search(_said(["debugfs", "-R", f"icheck {at // int(size[1])}", disk], control))
    if inode is None or not inode[2].strip().isdigit():
        return None
    path = _FOUND.search(_said(["debugfs", "-R", f"ncheck {inode[2].strip()}", disk], control))
    return re.sub("/+", "/", path[2]) if path else None


def _said(argv: Sequence[str], control: Control) -> str:
    """What a program says; '' when it fails, or is not there."""
    try:
        return process.run(argv, control=control, capture=True)
    except (CommandFailed, Refused):
        return ""
