"""Turns a recipe file into images that can be built, or reports all its problems."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageflow.recipe import definition, inputs, plain_places, plain_secrets, problems, relations, setting, wording
from imageflow.recipe.document import Document, entries
from imageflow.recipe.nodes import Node
from imageflow.recipe.problems import Problem, path_name
from imageflow.recipe.records import ImageRecipe, Recipe

if TYPE_CHECKING:
    from imageflow.recipe import models

_ENOUGH = 1000  # problems; finding more would not help the user


def load(path: Path | str, settings: Mapping[str, str] | None = None, images: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file, or a bare definition file of diskimage-builder.

    `settings` are those of `--set`, KEY.PATH -> VALUE, for the images named (for all, if none is).
    Raises RecipeError: a line for each problem, `FILE:LINE: KEY.PATH: what is wrong (the way out)`.
    """
    path = Path(path)
    document = Document.read(path)
    for key, value in (settings or {}).items():
        for index, image in enumerate(document.images):
            if not images or relations.name_of(image) in images:
                document.images[index] = setting.apply(image, key, value)
    return from_document(document, path)


def from_document(document: Document, path: Path) -> Recipe:
    """Check a recipe that was read, whose local inputs are relative to the folder of `path`; raises RecipeError."""
    absolute = Path(os.path.abspath(path))
    if not _is_text(str(absolute.parent)):  # the path is stored with the build
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
    found += relations.doubles(document)
    found += relations.circles(document)
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
    """A plain value in the current recipe file; None when it is missing. Raises RecipeError.

    `variable`: of diskimage-builder's environment, or a path of keys as plain_places.veil writes it.
    """
    for node in Document.read(path).images:
        if relations.name_of(node) == image:
            value = None
            if "/" in variable:
                return plain_places.at(node.data, variable)
            for entry in entries(node):
                value = (entry.get("environment") or {}).get(variable, value)
            return value if isinstance(value, str) else None
    return None


def _check(document: Document, index: int, image: Node, folder: Path) -> tuple[list[Problem], models.Image | None]:
    from pydantic import ValidationError

    from imageflow.recipe import models, on

    here: problems.Path = ("images", index)
    if image.keys is None:
        return [wording.wrong_type(document, here, "a mapping")], None
    node = image.keys.get("method")
    method = node.value if node is not None and node.value in models.METHODS else ""
    found: list[Problem] = []
    data = image.data
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
    found += [
        document.problem((*here, *fault.path), fault.message, fault.hint) for fault in plain_places.refused(image.data)
    ]
    found += _settings(document, here, image)
    if "on" in image.keys:
        wrong = itertools.islice(on.faults(data, folder), _ENOUGH)
        found += wording.faults_of(document, here, False, wrong)
    return found, model


def _settings(document: Document, here: problems.Path, image: Node) -> Iterator[Problem]:
    """Plain secrets that `--set` gives: they could not be read again from the file."""
    for plain in plain_secrets.of_image(image.data):
        if document.node((*here, *plain.path)).origin:
            what = f"is {plain.what}, and a setting is stored with the build"
            yield document.problem((*here, *plain.path), what, "write {secret: NAME} in the recipe")


def _files(document: Document, here: problems.Path, image: Node, folder: Path) -> Iterator[Problem]:
    """Problems with the local files and folders it names."""
    data = image.data
    for named in inputs.of_image(data if isinstance(data, dict) else {}):
        if wrong := named.unusable(folder):
            yield document.problem((*here, *named.path), *wrong)


def _accept(model: models.Image, entry: dict[str, Any], document: Document, index: int, path: Path) -> ImageRecipe:
    """The canonical form of an image without problems; `entry`: its definition, merged."""
    from imageflow.recipe.canonical import canonical

    here: problems.Path = ("images", index)
    remarks = tuple(
        document.problem((*here, *plain.path), f"holds {plain.what}, in plain text", plain_places.way_out(plain))
        for plain in plain_secrets.of_image(document.images[index].data)
    )
    environment: dict[str, Any] = entry.get("environment", {})
    for variable, value in environment.items():
        if isinstance(value, str) and plain_secrets.is_secret(variable, value):
            environment[variable] = {"secret": f"recipe:{path}#{model.name}/{variable}"}
    data = plain_places.veil(canonical(model, entry, path.parent), f"recipe:{path}#{model.name}/")

    def where(inner: Sequence[str | int]) -> str:
        return document.where((*here, *inner))

    return ImageRecipe(data, model.name, where, remarks)
