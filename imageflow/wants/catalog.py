"""The catalog: what each `os` of a want stands for, as operators have written it into `[catalog] path`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imageflow.background.remembered import Remembered
from imageflow.config import Config
from imageflow.errors import BadInput, ConfigError, RecipeError
from imageflow.recipe import ImageRecipe
from imageflow.recipe.fields import NAME
from imageflow.recipe.nodes import Node
from imageflow.recipe.problems import did_you_mean
from imageflow.wants import entry as entries
from imageflow.wants.entry import Entry, name_of
from imageflow.wants.want import FILES, PACKAGES, PARTS, PIP, Want

_SUFFIX = ".yaml"
_MANY = 500  # images that are remembered, because diskimage-builder takes 20 ms to check one
_REMEMBERED = 3600.0  # seconds; an entry that changes makes other images
_LARGE = 1 << 16  # characters of a want; larger ones are not remembered


class Catalog:
    """Reads the files when they have changed; threads may share it."""

    def __init__(self, config: Config) -> None:
        self.folder = config.catalog.path  # what local inputs of its images are relative to
        self._dib = config.catalog.dib
        self._known: dict[Path, tuple[tuple[int, ...], Entry]] = {}
        self._images: Remembered[ImageRecipe] = Remembered(_MANY)

    def entries(self) -> tuple[list[Entry], list[ConfigError]]:
        """The entries that can be used, by name, and what is wrong with the others."""
        found: list[Entry] = []
        wrong: list[ConfigError] = []
        for path in sorted(self._files()):
            try:
                found.append(self._entry(path))
            except ConfigError as error:
                wrong.append(error)
        return found, wrong

    def entry(self, os: str) -> Entry:
        """What this `os` stands for; raises BadInput when the catalog has no such entry, ConfigError for a wrong one."""
        paths = {path.stem: path for path in self._files()}
        if os not in paths:
            known = ", ".join(sorted(paths)) or "nothing: an operator writes its entries into [catalog] path"
            raise BadInput(f"the catalog has no os {os!r}", hint=did_you_mean(os, sorted(paths), f"it has {known}"))
        return self._entry(paths[os])

    def image(self, want: Want) -> ImageRecipe:
        """The image that has what is wanted, under a name that is made of its recipe: equal recipes are one image.

        Raises BadInput for what the entry does not take, ConfigError when the entry itself is wrong.
        """
        entry = self.entry(want.os)
        asked = json.dumps([entry.digest, want.canonical()])
        if (known := self._images.get(asked)) is not None:
            return known
        made = _image(want, entry)
        if len(asked) <= _LARGE:
            self._images.set(asked, made, _REMEMBERED)
        return made

    def _files(self) -> list[Path]:
        try:
            found = list(self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(
                f"[catalog] path: {self.folder}: {error.strerror}", hint="check its permissions"
            ) from None
        return [path for path in found if path.suffix == _SUFFIX and re.fullmatch(NAME, path.stem)]

    def _entry(self, path: Path) -> Entry:
        try:
            status = path.stat()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", hint="the catalog's entries are files") from None
        mark = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._known.get(path)
        if known is None or known[0] != mark:
            known = self._known[path] = (mark, entries.read(path))
        if known[1].method == "dib" and not self._dib:
            raise ConfigError(
                f"the catalog's entry {path.stem!r} can't be used: with the method dib, who asks could become root here",
                hint="use the method boot, or set [catalog] dib if they may",
            )
        return known[1]


def _image(want: Want, entry: Entry) -> ImageRecipe:
    try:
        made = entry.image(_steps(want, entry))
    except RecipeError as error:  # the entry alone has been checked
        raise BadInput(error.message, hint=error.hint) from None
    said = made.canonical()
    published = {key: value for key, value in said["publish"].items() if key != "name"}
    digest = hashlib.sha256(json.dumps(said | {"publish": published}, sort_keys=True).encode()).hexdigest()
    name = name_of(want.os, digest)
    data = said | {"name": name, "publish": published | {"name": name}}
    return dataclasses.replace(made, data=data, name=name)


def _steps(want: Want, entry: Entry) -> list[Node]:
    """The entries of `configure` that a want adds."""
    said = want.canonical()
    for part in PARTS:
        if part in said and part not in entry.takes:
            takes = ", ".join(entry.takes) or "nothing of that kind"
            raise BadInput(f"os {entry.os!r} takes no {part}", hint=f"it takes {takes}")
    steps: list[Node] = []
    for part, kind in ((PACKAGES, "packages"), (PIP, "pip"), (FILES, "files")):
        if part in said:
            steps.append(_node({kind: said[part]}, f"wanted.{part}"))
    if want.config_system is not None and want.recipe is not None:
        recipes = entry.recipes.get(want.config_system, {})
        if want.recipe not in recipes:
            has = "; ".join(f"{system}: {', '.join(names)}" for system, names in entry.names.items()) or "none"
            raise BadInput(
                f"os {entry.os!r} has no recipe {want.recipe!r} of {want.config_system}", hint=f"it has {has}"
            )
        steps += recipes[want.recipe]
    return steps


def _node(value: Any, origin: str) -> Node:
    """Plain data as a node of a recipe, which messages call `origin`."""
    node = functools.partial(Node, 1, 1, origin=origin)
    if isinstance(value, Mapping):
        return node(keys={key: _node(one, origin) for key, one in value.items()}, lines=dict.fromkeys(value, 1))
    if isinstance(value, list):
        return node(items=[_node(one, origin) for one in value])
    return node(value=value, text=str(value))
