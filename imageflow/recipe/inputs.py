"""The local files and folders named in an image's recipe: pure, for raw data and for the canonical form."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageflow.recipe.problems import Path as KeyPath
from imageflow.recipe.problems import path_name, short

ANSWERS = ("preseed", "kickstart", "autoinstall", "autoyast")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_url(name: str) -> bool:
    """Whether a path or URL is a URL."""
    return _URL.match(name) is not None


def is_id(name: str) -> bool:
    """Whether a name or id of an image in Glance is an id."""
    return _ID.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Input:
    """A file or folder that is read when the image is built."""

    path: KeyPath  # of the key that names it, below the image
    name: str  # as written in the recipe
    kind: str  # file, folder, either
    anywhere: bool = False  # large inputs may be outside the recipe's folder

    def at(self, folder: Path) -> Path:
        """Its path; `folder` is the recipe's."""
        return folder / self.name

    def unusable(self, folder: Path) -> tuple[str, str] | None:
        """Why it can't be an input, and the way out; None when it can."""
        name = self.name
        try:
            real = os.path.realpath(folder / name)
            root = os.path.realpath(folder)
            if not self.anywhere and os.path.commonpath([real, root]) != root:
                return f"{short(name)} is outside the recipe's folder", "copy it into that folder"
            mode = os.stat(real).st_mode
            if not os.access(real, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
                return f"{short(name)} can't be read", "check its permissions"
        except FileNotFoundError:
            return f"there is no {self._wanted} {short(name)}", f"paths are relative to {path_name(folder)}"
        except (OSError, ValueError):
            return f"{short(name)} is not a usable path", "name a file beside the recipe"
        if stat.S_ISDIR(mode):
            if self.kind == "file":
                return f"{short(name)} is a directory", "name each file"
            if real == root:
                return f"{short(name)} is the recipe's own folder", "put the files into a folder of their own"
        elif self.kind == "folder":
            return f"{short(name)} is not a folder", "name the folder that holds it"
        elif not stat.S_ISREG(mode):
            return f"{short(name)} is not a regular file", "name a file beside the recipe"
        return None

    @property
    def _wanted(self) -> str:
        return {"file": "file", "folder": "folder"}.get(self.kind, "file or folder")


def of_image(image: Mapping[str, Any]) -> Iterator[Input]:
    """All inputs of an image; values of a wrong type are left to the models."""
    for key in ("base", "iso"):
        yield from _one(image.get(key), (key,), "file", "file", anywhere=True)
        for named in _one(image.get(key), (key,), "checksums", "file", anywhere=True):
            if not is_url(named.name):
                yield named
    for kind in ANSWERS:
        yield from _one(image.get("answers"), ("answers",), kind, "file")
    for index, step in enumerate(_items(image.get("configure"))):
        yield from of_step(step, ("configure", index))
    for index, step in enumerate(_items(image.get("verify"))):
        yield from of_step(step, ("verify", index))


def of_step(step: Any, path: KeyPath = ()) -> Iterator[Input]:
    """The inputs of one entry of `configure` or `verify`."""
    if not isinstance(step, Mapping):
        return
    for index, file in enumerate(_items(step.get("files"))):
        yield from _one(file, (*path, "files", index), "source", "file")
    yield from _one(step.get("shell"), (*path, "shell"), "source", "file")
    yield from _one(step.get("ansible"), (*path, "ansible"), "playbook", "file")
    yield from _many(step.get("ansible"), (*path, "ansible"), "with", "either")
    yield from _one(step.get("puppet"), (*path, "puppet"), "manifest", "file")
    yield from _many(step.get("puppet"), (*path, "puppet"), "modules", "folder")
    yield from _one(step.get("salt"), (*path, "salt"), "states", "folder")
    yield from _one(step.get("chef"), (*path, "chef"), "cookbooks", "folder")


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _one(value: Any, path: KeyPath, key: str, kind: str, *, anywhere: bool = False) -> Iterator[Input]:
    if isinstance(value, Mapping) and isinstance(value.get(key), str):
        yield Input((*path, key), value[key], kind, anywhere)


def _many(value: Any, path: KeyPath, key: str, kind: str) -> Iterator[Input]:
    if isinstance(value, Mapping):
        for index, name in enumerate(_items(value.get(key))):
            if isinstance(name, str):
                yield Input((*path, key, index), name, kind)
