"""From a recipe file to images that can be built, or to every problem it has."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageflow.recipe import definition, inputs, problems, setting, wording
from imageflow.recipe.document import Document, entries
from imageflow.recipe.nodes import Node
from imageflow.recipe.problems import Problem, path_name, short
from imageflow.recipe.records import ImageRecipe, Recipe

if TYPE_CHECKING:
    from imageflow.recipe import models

_ENOUGH = 1000  # problems; looking for more helps nobody


def load(path: Path | str, settings: Mapping[str, str] | None = None, images: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file, or a bare definition file of diskimage-builder.

    `settings` are those of `--set`, KEY.PATH -> VALUE, for the images named (for all, if none is).
    Raises RecipeError: a line for each problem, `FILE:LINE: KEY.PATH: what is wrong (the way out)`.
    """
    path = Path(path)
    document = Document.read(path)
    for key, value in (settings or {}).items():
        for index, image in enumerate(document.images):
            if not images or _name(image) in images:
                document.images[index] = setting.apply(image, key, value)
    absolute = Path(os.path.abspath(path))
    if not _is_text(str(absolute.parent)):  # it is stored with the build
        raise problems.error([Problem(path_name(path), "the folder's name is not text in UTF-8", "rename the folder")])
    found: list[Problem] = []
    checked: list[models.Image] = []
    for index, image in enumerate(document.images):
        wrong, model = _check(document, index, image, absolute.parent)
        found += wrong
        if model is not None:
            checked.append(model)
        if len(found) >= _ENOUGH:
            raise problems.error(found)
    found += _doubles(document)
    found += _cycles(document)
    if found:
        raise problems.error(found)
    static = [image for image, model in zip(document.images, checked, strict=True) if model.method == "dib"]
    merged = iter(definition.merge([entries(image) for image in static]) if static else [])
    pairs = [(model, next(merged) if model.method == "dib" else {}) for model in checked]
    return Recipe(absolute, tuple(_accept(*pair, document, index, absolute) for index, pair in enumerate(pairs)))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain_secret(path: Path, image: str, variable: str) -> str | None:
    """The value of a variable in the recipe file as it is now; None when it is not there. Raises RecipeError."""
    for node in Document.read(path).images:
        if _name(node) == image:
            value = None
            for entry in entries(node):
                value = (entry.get("environment") or {}).get(variable, value)
            return value if isinstance(value, str) else None
    return None


def _name(image: Node) -> str | None:
    node = (image.keys or {}).get("name")
    return node.value if node is not None and isinstance(node.value, str) else None


def _check(document: Document, index: int, image: Node, folder: Path) -> tuple[list[Problem], models.Image | None]:
    from pydantic import ValidationError

    from imageflow.recipe import models

    here: problems.Path = ("images", index)
    if image.keys is None:
        return [wording.wrong_type(document, here, "a mapping")], None
    node = image.keys.get("method")
    method = node.value if node is not None and node.value in models.METHODS else ""
    found = list(_not_yet(document, here, image))
    data = image.data
    data.pop("on", None)
    model = None
    try:
        model = models.METHODS.get(method, models.Image if node is not None else models.DibImage).model_validate(
            data if method or node is None else {key: data[key] for key in models.Image.model_fields if key in data}
        )
    except ValidationError as error:
        found += [wording.problem_of(document, here, one, method) for one in error.errors(include_url=False)[:_ENOUGH]]
    if "dib" in image.keys and method in ("dib", ""):
        faults = definition.faults(entries(image) if image.keys["dib"].keys is not None else image.keys["dib"].data)
        single = image.keys["dib"].keys is not None
        found += wording.faults_of(document, (*here, "dib"), single, itertools.islice(faults, _ENOUGH))
    found += _files(document, here, image, folder)
    return found, model


def _not_yet(document: Document, here: problems.Path, image: Node) -> Iterator[Problem]:
    for key in image.keys or {}:
        if key == "on":
            yield document.problem(
                (*here, key), "triggers are not in this version", "remove 'on:' and create builds yourself"
            )


def _files(document: Document, here: problems.Path, image: Node, folder: Path) -> Iterator[Problem]:
    """The local files and folders that it names."""
    data = image.data
    for named in inputs.of_image(data if isinstance(data, dict) else {}):
        if wrong := named.unusable(folder):
            yield document.problem((*here, *named.path), *wrong)


def _doubles(document: Document) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for index, image in enumerate(document.images):
        name = _name(image)
        if name is None:
            continue
        if name in first:
            line = document.images[first[name]].line
            yield document.problem(
                ("images", index, "name"),
                f"a second image {short(name)!r}, the first is in line {line}",
                "give it another name",
            )
        first.setdefault(name, index)


def _cycles(document: Document) -> Iterator[Problem]:
    """Images that are built from each other, whatever their method."""
    bases: dict[str, str] = {}
    places: dict[str, int] = {}
    for index, image in enumerate(document.images):
        base = (image.keys or {}).get("base")
        of = (base.keys or {}).get("image") if base is not None else None
        if (name := _name(image)) is not None and of is not None and isinstance(of.value, str):
            bases.setdefault(name, of.value)
            places.setdefault(name, index)
    seen: set[str] = set()
    for start in bases:
        chain: list[str] = []
        name = start
        while name in bases and name not in seen:
            seen.add(name)
            chain.append(name)
            name = bases[name]
        if name in chain:
            circle = [*chain[chain.index(name) :], name]
            path = ("images", places[name], "base")
            yield document.problem(
                path, f"cyclic base: {' → '.join(map(short, circle))}", "an image can't be built from itself"
            )


def _accept(model: models.Image, entry: dict[str, Any], document: Document, index: int, path: Path) -> ImageRecipe:
    """The canonical form of an image without problems; `entry`: its definition, merged."""
    from imageflow.recipe.canonical import canonical

    environment: dict[str, Any] = entry.get("environment", {})
    for variable, value in environment.items():
        if isinstance(value, str) and definition.is_secret(variable, value):
            environment[variable] = {"secret": f"recipe:{path}#{model.name}/{variable}"}
    data = canonical(model, entry, path.parent)

    def where(inner: Sequence[str | int]) -> str:
        return document.where(("images", index, *inner))

    return ImageRecipe(data, model.name, where)
