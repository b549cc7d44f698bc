"""The registered recipes: every version of each, and the current ones in a form that is quick to search."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import sqlalchemy as sa

from imageflow.errors import Conflict, NotFound
from imageflow.model import Json, Registered, Trigger
from imageflow.persistence.tables import inputs, lineage, recipe_images, recipes, triggers
from imageflow.persistence.upsert import insert_or_update

_CHEAP = [recipes.c[f.name] for f in fields(Registered) if f.name != "images"]
_TRIGGER = [triggers.c[f.name] for f in fields(Trigger)]
_CHUNK = 500
MOST_INPUTS = 1000  # that events taught about one image


def _registered(row: Any) -> Registered:
    values = dict(row._mapping)
    if "images" in values:
        values["images"] = tuple(values["images"])
    return Registered(**values)


def get(conn: sa.Connection, name: str) -> Registered | None:
    """The current version of the recipe with this name, whole."""
    row = conn.execute(sa.select(*_CHEAP, recipes.c.images).where(recipes.c.name == name, recipes.c.current)).first()
    return _registered(row) if row else None


def select(conn: sa.Connection, name: str | None = None, *, everything: bool = False) -> list[Registered]:
    """Current versions by name, or all versions; with their images."""
    query = sa.select(*_CHEAP, recipes.c.images).order_by(recipes.c.name, recipes.c.version.desc())
    if name is not None:
        query = query.where(recipes.c.name == name)
    if not everything:
        query = query.where(recipes.c.current)
    return [_registered(row) for row in conn.execute(query)]


def add(
    conn: sa.Connection,
    new: Registered,
    rules: Iterable[tuple[Trigger, str]],
    parents: Mapping[str, Sequence[str]],
) -> Registered:
    """Store the next version of a recipe, with its triggers (and the probe of each) and its images' parents.

    Raises Conflict when an image belongs to another recipe.
    """
    names = [str(image["name"]) for image in new.images]
    held = conn.execute(
        sa.select(recipe_images.c.image, recipes.c.name)
        .join(recipes, recipes.c.id == recipe_images.c.recipe_id)
        .where(recipe_images.c.image.in_(names), recipes.c.name != new.name)
        .order_by(recipe_images.c.image)
    ).first()
    if held is not None:
        raise Conflict(
            f"image {held[0]!r} belongs to the registered recipe {held[1]!r}",
            hint=f"give it another name, or 'imageflow recipe remove {held[1]}' first",
        )
    last = conn.execute(sa.select(sa.func.max(recipes.c.version)).where(recipes.c.name == new.name)).scalar() or 0
    withdraw(conn, new.name)
    values = {f.name: getattr(new, f.name) for f in fields(Registered) if f.name != "id"}
    values |= {"version": last + 1, "images": list(new.images), "current": True}
    result = conn.execute(sa.insert(recipes).values(**values))
    assert result.inserted_primary_key is not None
    id = result.inserted_primary_key[0]
    held_rows = [
        {"image": image["name"], "recipe_id": id, "position": at, "published": published_name(image)}
        for at, image in enumerate(new.images)
    ]
    conn.execute(sa.insert(recipe_images), held_rows)
    edges = [{"image": name, "parent": parent} for name in names for parent in parents.get(name, ())]
    if edges:
        conn.execute(sa.insert(lineage), edges)
    rows = [
        {name: getattr(trigger, name) for name in (c.name for c in _TRIGGER)} | {"probe": probe}
        for trigger, probe in rules
    ]
    if rows:
        conn.execute(sa.insert(triggers), rows)
    for name in names:
        unlearn_unfollowed(conn, name)
    return replace(new, id=id, version=last + 1)


def withdraw(conn: sa.Connection, name: str) -> list[str]:
    """Unregister a recipe; its versions stay readable. -> its images."""
    mine = sa.select(recipes.c.id).where(recipes.c.name == name, recipes.c.current)
    ids = list(conn.execute(mine).scalars())
    if not ids:
        return []
    images = list(conn.scalars(sa.select(recipe_images.c.image).where(recipe_images.c.recipe_id.in_(ids))))
    for start in range(0, len(images), _CHUNK):
        some = images[start : start + _CHUNK]
        for table in (triggers, lineage, recipe_images):
            conn.execute(sa.delete(table).where(table.c.image.in_(some)))
    conn.execute(sa.update(recipes).where(recipes.c.id.in_(ids)).values(current=False))
    return images


def of_image(conn: sa.Connection, image: str) -> tuple[Registered, Json]:
    """The recipe that contains an image now, and the image's canonical recipe. Raises NotFound."""
    row = conn.execute(
        sa.select(*_CHEAP, recipes.c.images, recipe_images.c.position.label("at"))
        .join(recipe_images, recipe_images.c.recipe_id == recipes.c.id)
        .where(recipe_images.c.image == image)
    ).first()
    if row is None:
        raise NotFound(f"no registered recipe has an image {image!r}", hint="see 'imageflow recipe list'")
    values = dict(row._mapping)
    at = values.pop("at")
    found = Registered(**(values | {"images": tuple(values["images"])}))
    return found, found.images[at]


def current(conn: sa.Connection, image: str) -> int | None:
    """The id of the recipe version that contains an image now."""
    found: int | None = conn.execute(
        sa.select(recipe_images.c.recipe_id).where(recipe_images.c.image == image)
    ).scalar()
    return found


def candidates(conn: sa.Connection, probes: Sequence[str]) -> list[Trigger]:
    """The triggers that an event with these probes may match."""
    found: list[Trigger] = []
    for start in range(0, len(probes), _CHUNK):
        some = triggers.c.probe.in_(probes[start : start + _CHUNK])
        found += [Trigger(*row) for row in conn.execute(sa.select(*_TRIGGER).where(some))]
    return sorted(found, key=lambda trigger: (trigger.image, trigger.position))


def wanting(conn: sa.Connection, type: str, limit: int = 100) -> int:
    """How many triggers want events of exactly this type, whatever their data; counted up to `limit`."""
    some = sa.select(triggers.c.image).where(triggers.c.type == type).limit(limit).subquery()
    count: int = conn.execute(sa.select(sa.func.count()).select_from(some)).scalar_one()
    return count


def triggers_of_kind(conn: sa.Connection, kind: str) -> list[Trigger]:
    """The triggers of this kind, by image."""
    query = sa.select(*_TRIGGER).where(triggers.c.kind == kind).order_by(triggers.c.image, triggers.c.position)
    return [Trigger(*row) for row in conn.execute(query)]


def rule(trigger: Trigger) -> str:
    """Identifies which events a trigger wants, whatever its position."""
    said = json.dumps([trigger.kind, trigger.type, trigger.where], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()


def learn(conn: sa.Connection, image: str, said: Mapping[str, str], event: int, rule: str | None = None) -> None:
    """Keep what an event said about the inputs of an image: name of the pin -> value; `rule`: of the trigger that wanted it.

    An image has only so many of them: those that were learnt first are forgotten.
    """
    for name, value in said.items():
        row = {"image": image, "name": name, "value": value, "event": event, "rule": rule}
        insert_or_update(conn, inputs, row, ["image", "name"], {"value": value, "event": event, "rule": rule})
    if said:
        mine = sa.select(inputs.c.event).where(inputs.c.image == image).order_by(inputs.c.event.desc())
        if (last := conn.execute(mine.offset(MOST_INPUTS - 1).limit(1)).scalar()) is not None:
            conn.execute(sa.delete(inputs).where(inputs.c.image == image, inputs.c.event < last))


def unlearn(conn: sa.Connection, name: str) -> None:
    """Forget an input of all images: it is gone, and nothing can be built from it."""
    conn.execute(sa.delete(inputs).where(inputs.c.name == name))


def unlearn_unfollowed(conn: sa.Connection, image: str) -> None:
    """Forget the inputs of an image that none of its triggers follows any more."""
    mine = [rule(Trigger(*row)) for row in conn.execute(sa.select(*_TRIGGER).where(triggers.c.image == image))]
    conn.execute(sa.delete(inputs).where(inputs.c.image == image, inputs.c.rule.not_in(mine)))
    if not mine:
        conn.execute(sa.delete(inputs).where(inputs.c.image == image))


def unlearn_homeless(conn: sa.Connection, limit: int = 1000) -> int:
    """Forget inputs of images that are in no registered recipe; -> of how many images."""
    home = sa.exists().where(recipe_images.c.image == inputs.c.image)
    gone = list(conn.scalars(sa.select(inputs.c.image).distinct().where(~home).limit(limit)))
    for start in range(0, len(gone), _CHUNK):
        conn.execute(sa.delete(inputs).where(inputs.c.image.in_(gone[start : start + _CHUNK])))
    return len(gone)


def learnt(conn: sa.Connection, image: str) -> dict[str, str]:
    """What events last said about the inputs of an image."""
    query = sa.select(inputs.c.name, inputs.c.value).where(inputs.c.image == image).order_by(inputs.c.name)
    return {row.name: row.value for row in conn.execute(query)}


def published_name(image: Json) -> str:
    """The name by which other images refer to this one."""
    return str((image.get("publish") or {}).get("name") or image["name"])


def parents(conn: sa.Connection, images: Sequence[str]) -> dict[str, list[str]]:
    """The parents of each of these images that has any, by the names used there and the names that recipes use."""
    found: dict[str, list[str]] = {}
    for start in range(0, len(images), _CHUNK):
        edges = (
            sa.select(lineage.c.image, lineage.c.parent, recipe_images.c.image)
            .outerjoin(recipe_images, recipe_images.c.published == lineage.c.parent)
            .where(lineage.c.image.in_(images[start : start + _CHUNK]))
            .order_by(lineage.c.image, lineage.c.parent)
        )
        for name, parent, registered in conn.execute(edges):
            found.setdefault(name, []).extend(dict.fromkeys((parent, registered or parent)))
    return found


def ancestors(conn: sa.Connection, image: str) -> list[str]:
    """Every image that this one is based on, directly or not, by all its names; nearest first."""
    found: dict[str, None] = {}
    edge = [image]
    while edge:
        above = parents(conn, edge).values()
        edge = list(dict.fromkeys(name for names in above for name in names if name not in found and name != image))
        found |= dict.fromkeys(edge)
    return list(found)


def names(conn: sa.Connection) -> dict[str, str]:
    """Published name -> the registered image that has it; the first of several."""
    query = sa.select(recipe_images.c.published, recipe_images.c.image).order_by(recipe_images.c.image.desc())
    return {row.published: row.image for row in conn.execute(query)}


def graph(conn: sa.Connection) -> dict[str, list[str]]:
    """Every registered image -> the images that it is based on."""
    found: dict[str, list[str]] = {name: [] for name in conn.scalars(sa.select(recipe_images.c.image))}
    known = names(conn)
    for image, parent in conn.execute(sa.select(lineage.c.image, lineage.c.parent)):
        found.setdefault(image, []).append(known.get(parent, parent))
    return {name: sorted(set(of)) for name, of in sorted(found.items())}
