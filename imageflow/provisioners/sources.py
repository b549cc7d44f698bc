"""Local files of a recipe, as they were when the build was planned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from imageflow.errors import InputChanged
from imageflow.inputs import files
from imageflow.inputs.pins import Pins
from imageflow.model import Json
from imageflow.provisioners import Context


def copy(source: str, to: Path, context: Context) -> None:
    """Copy a file, or a folder with its content, to a new place on this host; modes are kept.

    Every file is compared with its pin while it is copied: InputChanged when one is not what it was,
    is gone, or was not there. Links are followed, as in the pins.
    """
    at = context.folder / source
    if not at.is_dir():
        _copy_file(source, at, to, context.pins)
        return
    found = set()
    to.mkdir(parents=True, exist_ok=True)
    for path in _files(at, context):
        name = f"{source}/{path.relative_to(at)}"
        found.add(name)
        context.control.check()
        _copy_file(name, path, to / path.relative_to(at), context.pins)
    for name in sorted(Pins(context.pins).files_below(source).keys() - found):
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
    if Pins(pins).file(name) != digest:
        raise InputChanged(f"{name} is not what it was when the build was planned")


def _files(folder: Path, context: Context) -> Iterator[Path]:
    try:
        yield from files.below(folder)
    except files.Uncopyable as error:
        raise InputChanged(f"{error.path.relative_to(context.folder)} {error.why}") from None
