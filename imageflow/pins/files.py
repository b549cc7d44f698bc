"""Local files that go into an image, each with its SHA-256."""

from __future__ import annotations

import hashlib
import os
import stat
import urllib.parse
from pathlib import Path

from imageflow.errors import RecipeError
from imageflow.recipe import ImageRecipe
from imageflow.recipe.problems import path_name, short


def named(image: ImageRecipe, folder: Path) -> dict[str, Path]:
    """The files by the name they are pinned under: relative to the recipe's folder where they are in it.

    Those of `configure`, and those that a variable of the definition's environment names by an
    absolute path, a file:// URL, or a path with a '/' from the recipe's folder.
    Raises RecipeError for a file of `configure` that is not there any more, or leads out of the folder.
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
        raise image.error(place, f"{short(source)} is outside of the recipe's folder", "copy it beside the recipe")
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
    """What is beside the recipe, by a path from it, keeps its name wherever the two are moved to."""
    absolute = os.path.abspath(path)
    inside = os.path.commonpath([absolute, folder.absolute()]) == str(folder.absolute())
    anywhere = value.startswith(("/", "file://"))
    return os.path.relpath(absolute, folder) if inside or not anywhere else absolute
