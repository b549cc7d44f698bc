"""Local files that go into an image, each with its SHA-256."""

from __future__ import annotations

import hashlib
import os
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from imageflow.errors import RecipeError
from imageflow.recipe import ImageRecipe
from imageflow.recipe.problems import path_name, short

_MANY = 100_000  # files of one folder: links can make any number of few


def named(image: ImageRecipe, folder: Path) -> dict[str, Path]:
    """The files by the name they are pinned under: relative to the recipe's folder if they are in it.

    Those of `configure`, and those that a variable of the definition's environment names by an
    absolute path, a file:// URL, or a path with a '/' relative to the recipe's folder.
    Raises RecipeError for a file of `configure` that is missing or outside the folder.
    """
    found: dict[str, Path] = {}
    for index, step in enumerate(image.configure):
        for position, file in enumerate(step.get("files", ())):
            if file.get("source") is not None:
                path = ("configure", index, "files", position, "source")
                found |= _of_configure(image, folder, path, file["source"])
    for value in image.dib.get("environment", {}).values():
        if isinstance(value, str) and (at := _of_environment(folder, value)):
            found[_name(at, folder, value)] = at
    return found


class Uncopyable(Exception):
    """Something in a folder that can't be copied as a file: `path`, `why`, and the way out."""

    def __init__(self, path: Path, why: str, hint: str) -> None:
        super().__init__(f"{path} {why}")
        self.path, self.why, self.hint = path, why, hint


def below(folder: Path) -> Iterator[Path]:
    """The files below a folder in order; links are followed, to files and to folders, as long as they stay in it.

    Raises Uncopyable for links that lead out, nowhere or in a circle, and for what is no file.
    """
    root = os.path.realpath(folder)
    for count, path in enumerate(_below(folder, root, root, (root,))):
        if count >= _MANY:
            raise Uncopyable(folder, f"has more than {_MANY} files", "name the folders in it that are needed")
        yield path


def _below(folder: Path, real: str, root: str, above: tuple[str, ...]) -> Iterator[Path]:
    """`real`: where the folder really is, so that only links have to be followed; `above`: those that it is in, and it."""
    try:
        with os.scandir(real) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise Uncopyable(folder, f"can't be read: {error.strerror}", "check its permissions") from None
    for entry in entries:
        path, target = folder / entry.name, entry.path
        if entry.is_symlink():
            target = os.path.realpath(target)
            if os.path.commonpath([target, root]) != root:
                raise Uncopyable(path, "leads out of its folder", "copy its target")
        if os.path.isdir(target):
            if target in above:
                raise Uncopyable(path, "leads back to a folder that it is in", "remove the link")
            yield from _below(path, target, root, (*above, target))
        elif os.path.isfile(target):
            if not os.access(target, os.R_OK):
                raise Uncopyable(path, "can't be read", "check its permissions")
            yield path
        elif entry.is_symlink():
            raise Uncopyable(path, "is a link that leads nowhere", "remove it, or put its target there")
        else:
            raise Uncopyable(path, "is neither a file nor a folder", "remove it")


def digest(path: Path) -> str:
    """SHA-256 of the file; raises RecipeError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RecipeError(
                    f"{path_name(path)} is not a regular file", hint="only files can be put into an image"
                )
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"{path_name(path)} can't be read: {error.strerror}") from None


def _of_configure(image: ImageRecipe, folder: Path, place: tuple[str | int, ...], source: str) -> dict[str, Path]:
    real, root = os.path.realpath(folder / source), os.path.realpath(folder)
    if os.path.commonpath([real, root]) != root:
        raise image.error(place, f"{short(source)} is outside the recipe's folder", "copy it into that folder")
    if not os.path.isfile(real):
        raise image.error(place, f"there is no file {short(source)}", f"paths are relative to {path_name(folder)}")
    return {source: Path(real)}


def _of_environment(folder: Path, value: str) -> Path | None:
    if value.startswith("file://"):
        value = urllib.parse.unquote(value.removeprefix("file://"))
    if "/" not in value or len(value) > 4096 or "\n" in value:
        return None
    path = folder / value
    try:
        return path if path.is_file() else None
    except (OSError, ValueError):
        return None


def _name(path: Path, folder: Path, value: str) -> str:
    """The pin's name: a file named relative to the recipe keeps it when both are moved."""
    absolute = os.path.abspath(path)
    inside = os.path.commonpath([absolute, folder.absolute()]) == str(folder.absolute())
    anywhere = value.startswith(("/", "file://"))
    return os.path.relpath(absolute, folder) if inside or not anywhere else absolute
