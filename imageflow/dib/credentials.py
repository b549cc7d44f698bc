"""Run by the element imageflow-manifest: removes the host's mirror credentials from an image."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "IMAGEFLOW_USERINFO"  # one 'user:password@' on each line
_PLACES = ("etc/apt", "etc/yum.repos.d", "etc/dnf", "etc/yum.conf", "etc/zypp", "etc/pip.conf")


def remove_from(root: Path, userinfo: list[str]) -> list[Path]:
    """Remove each of `userinfo` from the package managers' configuration below `root`; -> the changed files."""
    changed = []
    for file in _files(root):
        before = file.read_bytes()
        after = before
        for found in userinfo:
            after = after.replace(b"://" + found.encode(), b"://")
        if after != before:
            file.write_bytes(after)
            changed.append(file)
    return changed


def _files(root: Path) -> Iterator[Path]:
    for place in _PLACES:
        start = root / place
        candidates = start.rglob("*") if start.is_dir() else [start]
        # A link may point outside the image, to the host's own file.
        yield from (file for file in candidates if file.is_file() and not file.is_symlink())


if __name__ == "__main__":
    remove_from(Path(sys.argv[1]), os.environ[VARIABLE].split("\n"))
