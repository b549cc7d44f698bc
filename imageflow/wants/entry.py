"""One entry of the catalog: a file OS.yaml that an operator has written, and the images that can be made of it.

{"description", "takes": [of packages, pip_packages, custom_files], "recipes": {config_system: {recipe: entries of
`configure`}}, "image": an image as in a recipe, without a name}; see doc/api.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imageflow.errors import ConfigError, RecipeError
from imageflow.recipe import ImageRecipe, loading, problems, secret_values, source
from imageflow.recipe.document import Document
from imageflow.recipe.nodes import Node
from imageflow.recipe.problems import Problem, did_you_mean
from imageflow.wants.want import PARTS

_DIGITS = 24  # of the digest, in the name of an image: two wants never share one
_KEYS = ("description", "takes", "recipes", "image")
_NOT_HERE = {
    "name": "its name follows from what is wanted",
    "on": "images of the catalog are built when somebody asks for them",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What one `os` stands for."""

    os: str
    path: Path
    digest: str  # SHA-256 of the file
    description: str
    takes: tuple[str, ...]
    recipes: Mapping[str, Mapping[str, list[Node]]]  # config_system -> recipe -> entries of `configure`
    _image: Node

    @property
    def method(self) -> str:
        """How its images are built."""
        return str(self._image.data.get("method", "dib"))

    @property
    def names(self) -> dict[str, list[str]]:
        """What may be named with it: config_system -> recipes."""
        return {system: sorted(recipes) for system, recipes in sorted(self.recipes.items())}

    def image(self, steps: list[Node]) -> ImageRecipe:
        """Its image, under a name that none has, with these steps after its own; raises RecipeError."""
        keys = dict(self._image.keys or {})
        name = name_of(self.os, "")  # not `os` alone: its base may be an image of that name
        keys["name"] = Node(self._image.line, self._image.column, name, name)
        if steps:
            own = keys.get("configure", Node(self._image.line, self._image.column, items=[]))
            keys["configure"] = dataclasses.replace(own, items=[*(own.items or []), *steps])
        lines = {**dict.fromkeys(keys, self._image.line), **self._image.lines}
        whole = dataclasses.replace(self._image, keys=keys, lines=lines)
        [made] = loading.from_document(Document(str(self.path), [whole], {}), self.path).images
        if plain := next((name for name in secret_values.named_in(made.data) if name.startswith("recipe:")), None):
            place = plain.partition("#")[2].partition("/")[2]
            raise RecipeError(f"{self.path}: {place} is secret, in plain text", hint="write {secret: NAME}")
        return made


def name_of(os: str, digest: str) -> str:
    """The name of an image with this digest of its recipe."""
    return f"{os}-{digest[:_DIGITS].ljust(_DIGITS, '0')}"


def read(path: Path) -> Entry:
    """The entry in a file; raises ConfigError, with the place of what is wrong."""
    where = ""
    try:
        data = source.read(path)
        entry = _parsed(path, hashlib.sha256(data).hexdigest(), source.parse(data, str(path)))
        entry.image([])
        for system, recipes in entry.recipes.items():
            for name, steps in recipes.items():
                where = f"with its recipe {name!r} of {system}, "
                entry.image(steps)
    except RecipeError as error:
        message = f"{where}the catalog's entry {path.stem!r} can't be used: {error.message}"
        raise ConfigError(message, hint=error.hint) from None
    return entry


def _parsed(path: Path, digest: str, root: Node) -> Entry:
    keys = _mapping(path, "the entry", root)
    for key, node in keys.items():
        if key not in _KEYS:
            raise _wrong(path, node, f"{key}: there is no such key", did_you_mean(key, _KEYS, f"it has {_KEYS}"))
    if "image" not in keys:
        raise _wrong(path, root, "image: is missing", "an image as in a recipe, without a name")
    image = keys["image"]
    for key, why in _NOT_HERE.items():
        if key in _mapping(path, "image:", image):
            raise _wrong(path, image, f"image.{key}: can't be given here", why)
    takes = keys["takes"].data if "takes" in keys else list(PARTS)
    if not isinstance(takes, list) or any(part not in PARTS for part in takes):
        hint = f"a list of {', '.join(PARTS)}"
        raise _wrong(path, keys["takes"], "takes: is not a list of what a want may have", hint)
    recipes: dict[str, dict[str, list[Node]]] = {}
    for system, named in _mapping(path, "recipes:", keys["recipes"]).items() if "recipes" in keys else ():
        for name, steps in _mapping(path, f"recipes.{system}:", named).items():
            if steps.items is None:
                message = f"recipes.{system}.{name}: {steps.describe()}, expected a list"
                raise _wrong(path, steps, message, "entries as those of 'configure'")
            recipes.setdefault(system, {})[name] = steps.items
    description = keys["description"].data if "description" in keys else ""
    return Entry(path.stem, path, digest, str(description or ""), tuple(takes), recipes, image)


def _mapping(path: Path, what: str, node: Node) -> dict[str, Node]:
    if node.keys is None:
        raise _wrong(path, node, f"{what} {node.describe()}, expected a mapping", "see doc/api.md")
    return node.keys


def _wrong(path: Path, node: Node, message: str, hint: str) -> RecipeError:
    return problems.error([Problem(f"{path}:{node.line}", message, hint, node.line)])
