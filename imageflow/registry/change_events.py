"""Events about recipes in git: which ones report a push to a recipe, and what is sent when a recipe changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import PurePosixPath

from sqlalchemy import Connection

from imageflow.events import commits
from imageflow.fetch import git
from imageflow.model import Event, Origin, Registered
from imageflow.persistence import git_origins

SOURCE = "imageflow:recipes"
CHANGED = "imageflow.recipe.changed"
INVALID = "imageflow.recipe.invalid"


def notice(conn: Connection, event: Event) -> None:
    """If an event reports a push to a followed repository, request a look at it now."""
    if event.type not in ("git.push", "git.tag", "git.merge"):
        return
    for origin in git_origins.select(conn):
        if git.told_by(event.data, origin.url, origin.ref) and not commits.same(event.data.get("after"), origin.head):
            git_origins.ask(conn, origin.name)


def asked_by(event: Event) -> dict[str, str]:
    """The images that a recipe change requests, with the reason."""
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
    """The event that a recipe has changed or is gone."""
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
    return {"repository": git.named(origin.url)[1], "url": git.shown(origin.url), "ref": origin.ref}


def invalid(origin: Origin, head: str, name: str, why: str) -> Event:
    """The event that a recipe is not valid in this commit."""
    mark = hashlib.sha256(why.encode(errors="surrogatepass")).hexdigest()[:8]
    data = {"recipe": name, **told(origin), "commit": head, "reason": why}
    return Event(SOURCE, f"{name}@{head}!{mark}", INVALID, subject=name, time=time.time(), data=data)
