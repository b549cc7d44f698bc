"""Events and recipes that live in git: which tell of a push to one, and what is told when one has changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import PurePosixPath

from sqlalchemy import Connection

from imageflow import repository
from imageflow.model import Event, Origin, Registered
from imageflow.persistence import origins

SOURCE = "imageflow:recipes"
CHANGED = "imageflow.recipe.changed"
INVALID = "imageflow.recipe.invalid"


def notice(conn: Connection, event: Event) -> None:
    """Where an event tells of a push to what is followed, let it be looked at now."""
    if event.type not in ("git.push", "git.tag", "git.merge"):
        return
    for origin in origins.select(conn):
        if repository.told_by(event.data, origin.url, origin.ref) and event.data.get("after") != origin.head:
            origins.ask(conn, origin.name)


def asked_by(event: Event) -> dict[str, str]:
    """The images that the change of a recipe asks for, with the reason."""
    data = event.data if isinstance(event.data, Mapping) else {}
    if event.source != SOURCE or event.type != CHANGED or not isinstance(data.get("images"), list):
        return {}
    before, after = str(data.get("before") or ""), str(data.get("after"))
    became = f"{before[:8]} → {after[:8]}" if before else f"new in {after[:8]}"
    file = PurePosixPath(str(data.get("path"))).name
    return {str(image): f"recipe {file} of {data.get('repository')} changed: {became}" for image in data["images"]}


def changed(
    origin: Origin, head: str, old: Registered | None, new: Registered | None, differ: list[str], now: float
) -> Event:
    """The event that a recipe is another one, or is gone."""
    one = new or old
    assert one is not None and one.repository is not None
    before = str(old.repository["commit"]) if old and old.repository else None
    rules = {str(image["name"]) for image in one.images if image.get("on")}
    data = {
        "recipe": one.name,
        "version": new.version if new else None,
        **told(origin),
        "path": one.repository["path"],
        "before": before,
        "after": head,
        "images": [image for image in differ if image in rules],
        "quiet": [image for image in differ if image not in rules],
    }
    id = f"{one.name}@{before or '-'}..{head}#{new.version if new else f'{one.version}-'}"
    return Event(SOURCE, id, CHANGED, subject=one.name, time=now, data=data)


def told(origin: Origin) -> dict[str, str]:
    """What its events say about an origin."""
    return {"repository": repository.named(origin.url)[1], "url": repository.shown(origin.url), "ref": origin.ref}


def invalid(origin: Origin, head: str, name: str, why: str) -> Event:
    """The event that a recipe is not right in this commit."""
    mark = hashlib.sha256(why.encode()).hexdigest()[:8]
    data = {"recipe": name, **told(origin), "commit": head, "reason": why}
    return Event(SOURCE, f"{name}@{head}!{mark}", INVALID, subject=name, time=time.time(), data=data)
