"""The registered recipes, which events can build. Each change is a new version; the old ones stay readable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from imageflow.builds import wanted
from imageflow.config import Config
from imageflow.errors import BadInput, Conflict, NotFound, RecipeError
from imageflow.events import triggers
from imageflow.inputs import fingerprint
from imageflow.model import Json, Origin, Registered, Trigger
from imageflow.persistence import git_origins, reactions, rebuilds, registry
from imageflow.persistence.database import Database
from imageflow.persistence.patience import REQUEST
from imageflow.recipe import ImageRecipe
from imageflow.registry import lineage, trust


class RegistrationVerdict(StrEnum):
    """The outcome of `recipe add`."""

    ADDED = "added"  # the name was free
    CHANGED = "changed"  # a new version
    UNCHANGED = "unchanged"  # the current version says the same


@dataclass(frozen=True, slots=True)
class Registration:
    """The result of `recipe add`."""

    recipe: Registered
    verdict: RegistrationVerdict
    images: tuple[str, ...]
    strangers: tuple[str, ...]  # parents of these images that no registered recipe contains


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked version of a recipe, not stored yet."""

    recipe: Registered
    rules: tuple[tuple[Trigger, str], ...]  # each with its probe
    parents: Mapping[str, tuple[str, ...]]

    @property
    def images(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(str(image["name"]) for image in self.recipe.images)


def canonical_images(
    config: Config, file: Path, name: str, settings: Mapping[str, str] | None = None, repository: Json | None = None
) -> tuple[Json, ...]:
    """The checked images of a recipe file, to be registered under a name. Raises RecipeError."""
    valid = wanted.validate(config, file, settings=settings)
    images = tuple(image.canonical() for image in valid)
    trust.check(config, prepared(file, name, images, repository).recipe, valid, file.absolute().parent)
    return images


def prepared(file: Path, name: str, images: tuple[Json, ...], repository: Json | None = None) -> Prepared:
    """A recipe's new version, to be registered under a name."""
    digest = hashlib.sha256(json.dumps(fingerprint.placeless(images), sort_keys=True).encode()).hexdigest()
    recipe = Registered(0, name, 0, digest, str(file.absolute()), time.time(), images, repository)
    rules = tuple((rule, triggers.probe(rule)) for image in images for rule in triggers.triggers_of(image))
    return Prepared(recipe, rules, lineage.parents({str(image["name"]): image for image in images}))


def registration(conn: Connection, ready: Prepared, stored: Registered, verdict: RegistrationVerdict) -> Registration:
    """The result of a registration."""
    strangers = {parent for of in ready.parents.values() for parent in of} - registry.names(conn).keys()
    return Registration(stored, verdict, ready.images, tuple(sorted(strangers)))


class Recipes:
    """The recipes that events can build."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database

    def add(self, file: Path, name: str | None = None, settings: Mapping[str, str] | None = None) -> Registration:
        """Register a recipe file, or its next version, under a name (default: the file's).

        Raises RecipeError for an invalid file, Conflict when one of its images is in another recipe.
        """
        name = file.stem if name is None else name
        check_name(name)
        ready = prepared(file, name, canonical_images(self._config, file, name, settings))
        new = ready.recipe

        def store(conn: Connection) -> Registration:
            if (origin := git_origins.of_recipe(conn, name)) is not None:
                refuse_member(origin, name)
                git_origins.remove(conn, origin.name)  # it is no longer followed
            before = registry.get(conn, name)
            if before is not None and (before.digest, before.path, before.repository) == (new.digest, new.path, None):
                return registration(conn, ready, before, RegistrationVerdict.UNCHANGED)
            self._refuse_cycle(conn, name, new.images, ready.parents)
            stored = registry.add(conn, new, ready.rules, ready.parents)
            for gone in {str(image["name"]) for image in before.images} - set(ready.images) if before else ():
                forget(conn, gone)
            return registration(
                conn, ready, stored, RegistrationVerdict.CHANGED if before else RegistrationVerdict.ADDED
            )

        return self._database.transact(store, patience=REQUEST)

    @staticmethod
    def _refuse_cycle(conn: Connection, name: str, new: Iterable[Json], parents: Mapping[str, Any]) -> None:
        before = registry.get(conn, name)
        known = registry.graph(conn)
        for image in before.images if before else ():
            known.pop(str(image["name"]), None)
        called = registry.names(conn) | {ImageRecipe.from_json(image).publish.name: str(image["name"]) for image in new}
        if circle := lineage.cycle(
            known | {image: [called.get(one, one) for one in of] for image, of in parents.items()}
        ):
            raise RecipeError(
                f"these images would be built from each other: {' → '.join(circle)}",
                hint="an image can't be built from itself; see 'imageflow recipe graph'",
            )

    def remove(self, name: str) -> list[str]:
        """Stop events from building the images of a recipe, or of a followed folder of recipes; -> the images' names.

        Existing versions and running builds stay.
        """

        def remove(conn: Connection) -> list[str]:
            origin = git_origins.of_recipe(conn, name) or git_origins.get(conn, name)
            names = {name}
            if origin is not None and origin.name != name:
                refuse_member(origin, name)
            elif origin is not None:
                names |= git_origins.recipes_of(conn, origin).keys()
                git_origins.remove(conn, name)
            images = [image for each in sorted(names) for image in registry.withdraw(conn, each)]
            if not images and origin is None:
                raise NotFound(f"no recipe {name!r} is registered", hint="see 'imageflow recipe list'")
            for image in images:
                forget(conn, image)
            return images

        return self._database.transact(remove, patience=REQUEST)

    def registered(self, name: str | None = None, *, everything: bool = False) -> list[Registered]:
        """The current versions by name, or all versions."""
        with self._database.read() as conn:
            return registry.select(conn, name, everything=everything)

    def graph(self) -> dict[str, list[str]]:
        """Every registered image -> the images that it is based on."""
        with self._database.read() as conn:
            return registry.graph(conn)

    def image(self, image: str) -> tuple[Registered, Json]:
        """The recipe that contains this image, and the image's canonical recipe. Raises NotFound."""
        with self._database.read() as conn:
            return registry.of_image(conn, image)


def check_name(name: str) -> None:
    """Raises BadInput for an invalid recipe name."""
    if not name or len(name) > 191 or not name.isprintable():
        raise BadInput(f"{name!r} can't be a recipe's name", hint="--name NAME")


def refuse_member(origin: Origin, name: str) -> None:
    """Raises Conflict for a name that belongs to a followed folder."""
    if origin.folder:
        raise Conflict(
            f"recipe {name!r} belongs to the folder {origin.path!r} of a followed repository",
            hint=f"change it there; 'imageflow recipe remove {origin.name}' removes the whole folder",
        )


def forget(conn: Connection, image: str) -> None:
    """Drop the requests of events for an image that is no longer in any recipe, and what they said of its inputs."""
    reactions.drop(conn, image, "it is no longer in any registered recipe")
    rebuilds.close(conn, image)
    registry.unlearn_unfollowed(conn, image)  # a removed image has no triggers
