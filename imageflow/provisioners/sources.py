"""Local files of a recipe, as they were when the build was planned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from imageflow.errors import InputChanged
from imageflow.model import Json
from imageflow.provisioners import Context


def copy(source: str, to: Path, context: Context) -> None:
    """Copy a file, or a folder with all that is in it, to a new place on this machine; modes are kept.

    Every file is compared with its pin while it is copied: InputChanged when one is not what it was,
    is gone, or was not there. Links to files are followed; those to folders are left out, as in the pins.
    """
    at = context.folder / source
    if not at.is_dir():
        _copy_file(source, at, to, context.pins)
        return
    found = set()
    to.mkdir(parents=True, exist_ok=True)
    for path in _files(at):
        name = f"{source}/{path.relative_to(at)}"
        found.add(name)
        context.control.check()
        _copy_file(name, path, to / path.relative_to(at), context.pins)
    for name in sorted(_pinned_below(source, context.pins) - found):
        raise InputChanged(f"{name} is not there any more")


def read(source: str, context: Context) -> bytes:
    """The content of a small file, compared with its pin."""
    try:
        data = (context.folder / source).read_bytes()
    except OSError as error:
        raise InputChanged(f"{source}: {error.strerror}") from error
    _compare(source, hashlib.sha256(data).hexdigest(), context.pins)
    return data


def _copy_file(name: str, at: Path, to: Path, pins: Json) -> None:
    digest = hashlib.sha256()
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        with at.open("rb") as reader, to.open("wb") as writer:
            while data := reader.read(1 << 20):
                digest.update(data)
                writer.write(data)
        to.chmod(at.stat().st_mode & 0o777 | 0o400)
    except OSError as error:
        raise InputChanged(f"{name}: {error.strerror}") from error
    _compare(name, digest.hexdigest(), pins)


def _compare(name: str, digest: str, pins: Json) -> None:
    if pins.get(f"file:{name}") != digest:
        raise InputChanged(f"{name} is not what it was when the build was planned")


def _pinned_below(folder: str, pins: Json) -> set[str]:
    start = f"file:{folder}/"
    return {name.removeprefix("file:") for name in pins if name.startswith(start)}


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            yield path
        elif not path.is_symlink():
            yield from _files(path)
