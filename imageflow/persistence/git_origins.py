"""The followed recipe files and folders in git: the last registered state of each, and which ones are to be looked at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from typing import Any

import sqlalchemy as sa

from imageflow.model import ENDED, Json, Origin, Registered
from imageflow.persistence import registry
from imageflow.persistence.tables import builds, origins, recipe_images, recipes

_HOME = sa.select(recipe_images.c.recipe_id)
_COLUMNS = [origins.c[f.name] for f in fields(Origin)]


def select(conn: sa.Connection) -> list[Origin]:
    """All origins, by name."""
    return [Origin(*row) for row in conn.execute(sa.select(*_COLUMNS).order_by(origins.c.name))]


def get(conn: sa.Connection, name: str) -> Origin | None:
    """The origin with this name."""
    row = conn.execute(sa.select(*_COLUMNS).where(origins.c.name == name)).first()
    return Origin(*row) if row else None


def of_recipe(conn: sa.Connection, name: str) -> Origin | None:
    """The origin that a recipe with this name would come from: its own, or that of its folder."""
    found = get(conn, name) or get(conn, name.rpartition("/")[0])
    return found if found and (found.name == name) != found.folder else None


def add(conn: sa.Connection, new: Origin) -> None:
    """Store a new origin; raises IntegrityError if the name exists."""
    conn.execute(sa.insert(origins).values(**asdict(new)))


def change(conn: sa.Connection, known: Origin, **values: Any) -> bool:
    """Change it, unless another process has since it was read; -> whether it was changed."""
    same = (origins.c.name == known.name, origins.c.generation == known.generation)
    statement = sa.update(origins).where(*same).values(generation=known.generation + 1, **values)
    return conn.execute(statement).rowcount == 1


def remove(conn: sa.Connection, name: str) -> bool:
    """Stop following it; -> whether it was followed."""
    return conn.execute(sa.delete(origins).where(origins.c.name == name)).rowcount == 1


def ask(conn: sa.Connection, name: str) -> None:
    """A push was reported: look at it now."""
    conn.execute(sa.update(origins).where(origins.c.name == name).values(asked=origins.c.asked + 1))


def seen(conn: sa.Connection, known: Origin, trouble: str | None) -> None:
    """It was looked at, or could not be: rebuilds that wait for the look need not wait any longer."""
    statement = sa.update(origins).where(origins.c.name == known.name)
    if known.trouble != trouble:
        conn.execute(statement.values(trouble=trouble))
    if known.looked < known.asked:
        conn.execute(statement.where(origins.c.looked < known.asked).values(looked=known.asked))


def awaited(conn: sa.Connection) -> dict[str, str]:
    """The images whose recipes may have changed by a reported push: image -> name of the origin to look at."""
    names = list(conn.scalars(sa.select(origins.c.name).where(origins.c.asked > origins.c.looked)))
    found: dict[str, str] = {}
    for name in names:
        some = _below(name)
        query = sa.select(recipe_images.c.image).join(recipes, recipes.c.id == recipe_images.c.recipe_id).where(some)
        found |= dict.fromkeys(conn.scalars(query), name)
    return found


def recipes_of(conn: sa.Connection, origin: Origin) -> dict[str, Registered]:
    """The registered recipes that have its name, or names below it if it is a folder, wherever they come from."""
    query = sa.select(recipes.c.name).where(recipes.c.current, _below(origin.name))
    found = {name: registry.get(conn, name) for name in conn.scalars(query) if _is_of(name, origin)}
    return {name: recipe for name, recipe in found.items() if recipe is not None}


def _below(name: str) -> sa.ColumnElement[bool]:
    return sa.or_(recipes.c.name == name, recipes.c.name.startswith(f"{name}/", autoescape=True))


def _is_of(recipe: str, origin: Origin) -> bool:
    """`_below` in Python: exact even where a database compares names loosely."""
    return recipe.rpartition("/")[0] == origin.name if origin.folder else recipe == origin.name


def move(conn: sa.Connection, old: Registered, new: Registered) -> None:
    """The same version in another commit, when nothing that it uses of its files has changed."""
    values = {"path": new.path, "images": list(new.images), "repository": new.repository}
    conn.execute(sa.update(recipes).where(recipes.c.id == old.id).values(**values))


def homeless(conn: sa.Connection, images: Collection[str]) -> list[str]:
    """Those of these images that are in no registered recipe."""
    return [image for image in images if conn.scalar(_HOME.where(recipe_images.c.image == image)) is None]


def repositories(conn: sa.Connection, *, everything: bool = False) -> list[Mapping[str, Any]]:
    """The repositories of the current recipes that live in git; with `everything`, of all versions."""
    query = sa.select(recipes.c.repository).where(recipes.c.repository.is_not(None))
    rows: list[Json | None] = list(conn.scalars(query if everything else query.where(recipes.c.current)))
    return [row for row in rows if row is not None]


def folders_in_use(conn: sa.Connection) -> list[str]:
    """The recipe folders of the unfinished builds."""
    ended = [state.value for state in ENDED]
    return list(conn.scalars(sa.select(builds.c.folder).where(builds.c.state.not_in(ended)).distinct()))
