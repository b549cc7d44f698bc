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

from imageflow import intake, lineage, triggers
from imageflow.config import Config
from imageflow.errors import BadInput, NotFound, RecipeError
from imageflow.model import Json, Registered, Trigger
from imageflow.persistence import builds, observations, reactions, rebuilds, registry
from imageflow.persistence.database import Database

PATIENCE = 10.0  # seconds that a request waits for a database that is away


@dataclass(frozen=True, slots=True)
class Registration:
    """What became of `recipe add`."""

    recipe: Registered
    verdict: str  # added, changed, unchanged
    images: tuple[str, ...]
    strangers: tuple[str, ...]  # images that these stand on and that no registered recipe has


class Recipes:
    """The recipes that events can build."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database

    def add(
        self,
        file: Path,
        name: str | None = None,
        settings: Mapping[str, str] | None = None,
        *,
        repository: Json | None = None,
    ) -> Registration:
        """Register a recipe file, or its next version, under a name (the file's by default).

        Raises RecipeError for a file that is not right, Conflict when an image of it is in another recipe.
        """
        picked = intake.validate(self._config, file, settings=settings)
        images = tuple(image.canonical() for image in picked)
        name = name or file.stem
        if not name or len(name) > 191:
            raise BadInput(f"{name!r} can't be a recipe's name", hint="--name NAME")
        digest = hashlib.sha256(json.dumps(images, sort_keys=True).encode()).hexdigest()
        new = Registered(0, name, 0, digest, str(file.absolute()), time.time(), images, repository)
        rules = [(rule, triggers.probe(rule)) for image in images for rule in triggers.triggers_of(image)]
        parents = lineage.parents({str(image["name"]): image for image in images})

        names = tuple(str(image["name"]) for image in images)

        def store(conn: Connection) -> Registration:
            before = registry.get(conn, name)
            same = before is not None and (before.digest, before.path, before.repository) == (
                digest,
                new.path,
                repository,
            )
            if before is not None and same:
                stored, verdict = before, "unchanged"
            else:
                self._refuse_cycle(conn, name, images, parents)
                stored, verdict = registry.add(conn, new, rules, parents), "changed" if before else "added"
                for gone in {str(image["name"]) for image in before.images} - set(names) if before else ():
                    _forget(conn, gone)
            wanted = sorted({parent for of in parents.values() for parent in of})
            strangers = tuple(set(wanted) - registry.names(conn).keys())
            return Registration(
                stored, verdict, tuple(str(image["name"]) for image in images), tuple(sorted(strangers))
            )

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
        """Events no longer build this recipe's images; -> their names. What is built, and being built, stays."""

        def remove(conn: Connection) -> list[str]:
            images = registry.withdraw(conn, name)
            if not images:
                raise NotFound(f"no recipe {name!r} is registered", hint="see 'imageflow recipe list'")
            for image in images:
                _forget(conn, image)
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


def _forget(conn: Connection, image: str) -> None:
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
