"""The registered recipes: what events can build. Each change of one is a new version; the old ones stay readable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from imageflow import fingerprint, intake, lineage, triggers
from imageflow.config import Config
from imageflow.errors import BadInput, Conflict, NotFound, RecipeError
from imageflow.model import Json, Origin, Registered, Trigger
from imageflow.persistence import builds, observations, origins, reactions, rebuilds, registry
from imageflow.persistence.database import Database

PATIENCE = 10.0  # seconds that a request waits for a database that is away


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of `recipe add`."""

    recipe: Registered
    verdict: str  # added, changed, unchanged
    images: tuple[str, ...]
    strangers: tuple[str, ...]  # images that these stand on and that no registered recipe has


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version of a recipe that is checked, and not stored yet."""

    recipe: Registered
    rules: tuple[tuple[Trigger, str], ...]  # each with its probe
    parents: Mapping[str, tuple[str, ...]]

    @property
    def images(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(str(image["name"]) for image in self.recipe.images)


def prepare(
    config: Config, file: Path, name: str, settings: Mapping[str, str] | None = None, repository: Json | None = None
) -> Prepared:
    """Check a recipe file, to be registered under a name. Raises RecipeError."""
    images = tuple(image.canonical() for image in intake.validate(config, file, settings=settings))
    digest = hashlib.sha256(json.dumps(fingerprint.placeless(images), sort_keys=True).encode()).hexdigest()
    recipe = Registered(0, name, 0, digest, str(file.absolute()), time.time(), images, repository)
    rules = tuple((rule, triggers.probe(rule)) for image in images for rule in triggers.triggers_of(image))
    return Prepared(recipe, rules, lineage.parents({str(image["name"]): image for image in images}))


def registration(conn: Connection, prepared: Prepared, stored: Registered, verdict: str) -> Registration:
    """What became of it."""
    strangers = {parent for of in prepared.parents.values() for parent in of} - registry.names(conn).keys()
    return Registration(stored, verdict, prepared.images, tuple(sorted(strangers)))


class Recipes:
    """The recipes that events can build."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database

    def add(self, file: Path, name: str | None = None, settings: Mapping[str, str] | None = None) -> Registration:
        """Register a recipe file, or its next version, under a name (the file's by default).

        Raises RecipeError for a file that is not right, Conflict when an image of it is in another recipe.
        """
        name = file.stem if name is None else name
        check_name(name)
        prepared = prepare(self._config, file, name, settings)
        new = prepared.recipe

        def store(conn: Connection) -> Registration:
            if (origin := origins.of_recipe(conn, name)) is not None:
                refuse_member(origin, name)
                origins.remove(conn, origin.name)  # it is no longer followed
            before = registry.get(conn, name)
            if before is not None and (before.digest, before.path, before.repository) == (new.digest, new.path, None):
                return registration(conn, prepared, before, "unchanged")
            self._refuse_cycle(conn, name, new.images, prepared.parents)
            stored = registry.add(conn, new, prepared.rules, prepared.parents)
            for gone in {str(image["name"]) for image in before.images} - set(prepared.images) if before else ():
                forget(conn, gone)
            return registration(conn, prepared, stored, "changed" if before else "added")

        return self._database.transact(store, patience=PATIENCE)

    @staticmethod
    def _refuse_cycle(conn: Connection, name: str, new: Iterable[Json], parents: Mapping[str, Any]) -> None:
        before = registry.get(conn, name)
        known = registry.graph(conn)
        for image in before.images if before else ():
            known.pop(str(image["name"]), None)
        called = registry.names(conn) | {registry.published_name(image): str(image["name"]) for image in new}
        if circle := lineage.cycle(
            known | {image: [called.get(one, one) for one in of] for image, of in parents.items()}
        ):
            raise RecipeError(
                f"these images would be built from each other: {' → '.join(circle)}",
                hint="an image can't be built from itself; see 'imageflow recipe graph'",
            )

    def remove(self, name: str) -> list[str]:
        """Events no longer build the images of a recipe, or of a followed folder of them; -> their names.

        What is built, and being built, stays.
        """

        def remove(conn: Connection) -> list[str]:
            origin = origins.of_recipe(conn, name) or origins.get(conn, name)
            names = {name}
            if origin is not None and origin.name != name:
                refuse_member(origin, name)
            elif origin is not None:
                names |= origins.recipes_of(conn, origin).keys()
                origins.remove(conn, name)
            images = [image for each in sorted(names) for image in registry.withdraw(conn, each)]
            if not images and origin is None:
                raise NotFound(f"no recipe {name!r} is registered", hint="see 'imageflow recipe list'")
            for image in images:
                forget(conn, image)
            return images

        return self._database.transact(remove, patience=PATIENCE)

    def registered(self, name: str | None = None, *, everything: bool = False) -> list[Registered]:
        """The present versions by name, or every version there was."""
        with self._database.read() as conn:
            return registry.select(conn, name, everything=everything)

    def graph(self) -> dict[str, list[str]]:
        """Every registered image -> the images that it stands on."""
        with self._database.read() as conn:
            return registry.graph(conn)

    def image(self, image: str) -> tuple[Registered, Json]:
        """The recipe that has this image, and the image's canonical recipe. Raises NotFound."""
        with self._database.read() as conn:
            return registry.of_image(conn, image)


def check_name(name: str) -> None:
    """Raises BadInput for what can't be a recipe's name."""
    if not name or len(name) > 191 or not name.isprintable():
        raise BadInput(f"{name!r} can't be a recipe's name", hint="--name NAME")


def refuse_member(origin: Origin, name: str) -> None:
    """Raises Conflict for a name that belongs to a folder which is followed."""
    if origin.folder:
        raise Conflict(
            f"recipe {name!r} belongs to the folder {origin.path!r} of a repository that is followed",
            hint=f"change it there; 'imageflow recipe remove {origin.name}' removes the whole folder",
        )


def forget(conn: Connection, image: str) -> None:
    """What events asked of an image that is in no recipe any more."""
    reactions.drop(conn, image, "it is in no registered recipe any more")
    rebuilds.close(conn, image)


class SqlWatched:
    """What pollers look at, and what they saw last; see listeners.Watched."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def triggers(self, kind: str) -> list[Trigger]:
        """See listeners.Watched."""
        with self._database.read() as conn:
            return registry.triggers_of_kind(conn, kind)

    def canonical(self, image: str) -> dict[str, Any] | None:
        """See listeners.Watched."""
        with self._database.read() as conn:
            try:
                return dict(registry.of_image(conn, image)[1])
            except NotFound:
                return None

    def folder(self, image: str) -> str:
        """See listeners.Watched."""
        with self._database.read() as conn:
            return str(Path(registry.of_image(conn, image)[0].path).parent)

    def pinned(self, image: str) -> dict[str, str]:
        """See listeners.Watched."""
        with self._database.read() as conn:
            last = builds.latest(conn, image)
        return dict(last.pins) if last else {}

    def seen(self, name: str) -> tuple[str, float] | None:
        """See listeners.Watched."""
        with self._database.read() as conn:
            return observations.seen(conn, name)

    def see(self, name: str, value: str) -> None:
        """See listeners.Watched."""
        self.see_all({name: value})

    def see_all(self, values: Mapping[str, str]) -> None:
        """See listeners.Watched."""

        def store(conn: Connection) -> None:
            now = time.time()
            for name, value in sorted(values.items()):  # in one order: two that do it at once must not lock each other
                observations.see(conn, name, value, now)

        self._database.transact(store, patience=PATIENCE)
