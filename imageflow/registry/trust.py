"""What a recipe from git may do on this host: whoever can push to its repository has written it.

The lists are those of `[recipes]`; a recipe that an operator adds from a file is held to them only with `local`.
"""

from __future__ import annotations

import fnmatch
import os
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from imageflow.config import Config
from imageflow.errors import RecipeError, Refused
from imageflow.fetch import git
from imageflow.inputs import elements
from imageflow.inputs import files as local_files
from imageflow.inputs.stages import kind_of
from imageflow.model import Registered
from imageflow.recipe import ImageRecipe, secret_values
from imageflow.recipe.definition import elements as named_elements
from imageflow.recipe.inputs import is_url

_ANYTHING = "*"
_REPOSITORY = "repository:"  # before the name of an element that is in the repository itself


def refused_repository(config: Config, url: str) -> Refused | None:
    """Why recipes from this repository are not taken; None when they are."""
    if _matches(url, config.recipes.repositories):
        return None
    return Refused(
        f"{git.shown(url)} is not one of the repositories that recipes may come from", hint="[recipes] repositories"
    )


def check(config: Config, recipe: Registered, images: Iterable[ImageRecipe], folder: Path) -> None:
    """Raise RecipeError with everything that a registered recipe may not do; `folder` is the recipe's on this host."""
    if recipe.repository is None and not config.recipes.local:
        return
    if recipe.repository is not None and (refused := refused_repository(config, str(recipe.repository["url"]))):
        raise RecipeError(refused.message, hint=refused.hint)
    found = [str(error) for image in images for error in _Check(config, recipe, image, folder).problems()]
    if found:
        raise RecipeError("\n".join(found))


def may_use(config: Config, recipe: str, secret: str) -> bool:
    """Whether a recipe from git, by the name it is registered under, may use a secret."""
    project = recipe.partition("/")[0]
    own = secret.removeprefix(f"{project}.")
    if own != secret and "." not in own:
        return True
    for entry in config.recipes.secrets:
        name, _, secrets = entry.partition(":")
        applies = fnmatch.fnmatchcase(recipe, name.strip()) or project == name.strip()
        if applies and _matches(secret, secrets.replace(",", " ").split()):
            return True
    return False


class _Check:
    """The check of one image."""

    def __init__(self, config: Config, recipe: Registered, image: ImageRecipe, folder: Path) -> None:
        self._config, self._lists = config, config.recipes
        self._recipe, self._image, self._folder = recipe, image, folder
        placed = git.placed(folder) if recipe.repository is not None else None
        self._root = placed.root / placed.slug / placed.commit if placed else folder

    def problems(self) -> Iterator[RecipeError]:
        """What it may not do, each with its place and the option that would allow it."""
        yield from self._secrets()
        yield from self._files()
        yield from self._polled()
        yield from self._steps()
        if self._image.method == "dib":
            yield from self._environment()
            yield from self._elements()

    def _secrets(self) -> Iterator[RecipeError]:
        for name in sorted(set(secret_values.named_in(self._image.data))):
            if not name.startswith("recipe:") and not may_use(self._config, self._recipe.name, name):
                project = self._recipe.name.partition("/")[0]
                hint = f"name it {project}.NAME, or add '{self._recipe.name}: {name}' to [recipes] secrets"
                yield self._image.error((), f"the recipe {self._recipe.name!r} may not use the secret {name!r}", hint)

    def _files(self) -> Iterator[RecipeError]:
        made_from, key = self._image.made_from, self._image.made_from.key
        named: list[tuple[tuple[str | int, ...], str | None]] = [
            ((key, "file"), made_from.file),
            ((key, "url"), made_from.url),
            ((key, "checksums"), made_from.checksums),
        ]
        for index, entry in enumerate(self._image.on):
            if (watch := entry.get("watch")) not in (None, "base", "iso"):
                named.append((("on", index, "watch"), str(watch)))
        own = self._image.dib.get("environment", {}).get("ELEMENTS_PATH")
        if isinstance(own, str):
            named += [(("dib", "environment", "ELEMENTS_PATH"), part) for part in own.split(":") if part]
        for path, name in named:
            if name is not None and (place := _on_this_host(name)) is not None and not self._inside(place):
                yield self._outside(path, name)

    def _polled(self) -> Iterator[RecipeError]:
        for index, entry in enumerate(self._image.on):
            if (url := entry.get("git")) is not None and (refused := refused_repository(self._config, str(url))):
                yield self._image.error(("on", index, "git"), refused.message, refused.hint)

    def _steps(self) -> Iterator[RecipeError]:
        for index, step in enumerate(self._image.configure):
            if not _matches(kind := kind_of(step), self._lists.steps):
                message = f"a recipe from git may have no step {kind!r} here"
                yield self._image.error(("configure", index, kind), message, "[recipes] steps")

    def _environment(self) -> Iterator[RecipeError]:
        for name in self._image.dib.get("environment", {}):
            if not _matches(name, self._lists.environment):
                message = f"a recipe from git may not set {name} here"
                yield self._image.error(("dib", "environment", name), message, "[recipes] environment")
        if _ANYTHING in self._lists.elements:
            return  # elements of the repository's choice read any file themselves
        for name, path in local_files.named(self._image, self._folder).items():
            if not self._inside(str(path)):
                yield self._outside(("dib", "environment"), name)

    def _elements(self) -> Iterator[RecipeError]:
        if _ANYTHING in self._lists.elements and f"{_REPOSITORY}*" in self._lists.elements:
            return
        named = {*named_elements(self._image.dib), *elements.asked(self._image)} - {"base"}
        used = elements.used(self._image, elements.search_path(self._image, self._folder, self._config))
        for name, path in sorted(used.items()):
            from_repository = _is_below(str(path), str(self._root))
            wanted = f"{_REPOSITORY}{name}" if from_repository else name
            if (from_repository or name in named) and not _matches(wanted, self._lists.elements):
                message = f"a recipe from git may not use the element {wanted} here"
                yield self._image.error(("dib", "elements"), message, "[recipes] elements")

    def _inside(self, name: str) -> bool:
        """Whether a path, its links followed, is in the repository or in what the configuration allows."""
        return any(_is_below(str(self._folder / name), each) for each in (str(self._root), *self._lists.files))

    def _outside(self, path: Sequence[str | int], name: str) -> RecipeError:
        return self._image.error(
            path, f"{name} is outside the repository, and not among the files that are allowed", "[recipes] files"
        )


def _matches(word: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns fits; `*` alone fits no element of a repository."""
    return any(
        fnmatch.fnmatchcase(word, pattern) and word.startswith(_REPOSITORY) == pattern.startswith(_REPOSITORY)
        for pattern in patterns
    )


def _on_this_host(name: str) -> str | None:
    """The path that a path or URL means on this host; None for one elsewhere."""
    if not is_url(name):
        return name
    parts = urllib.parse.urlsplit(name)
    return urllib.parse.unquote(parts.path) if parts.scheme.lower() == "file" else None


def _is_below(path: str, place: str) -> bool:
    real, root = os.path.realpath(path), os.path.realpath(place)
    return os.path.commonpath([real, root]) == root
