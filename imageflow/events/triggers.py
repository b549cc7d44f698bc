"""The rules in recipes, `on:`: which events request which images, and why; pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imageflow.events.conditions import Broken, glob, holds
from imageflow.events.own import CHANGED, PUBLISH, SCHEDULE
from imageflow.events.probing import is_glob, probe, probes
from imageflow.events.reasons import reason
from imageflow.model import Event, Json, Trigger
from imageflow.recipe import ImageRecipe

__all__ = ["explain", "git_source", "probe", "probes", "triggers_of"]

_OWN = ("schedule", "image", "watch")  # kinds that only our own events can match


def triggers_of(canonical: Json) -> tuple[Trigger, ...]:
    """The triggers of an image, from its canonical recipe; () without any."""
    image = ImageRecipe.from_json(canonical)
    found = []
    for position, entry in enumerate(image.on):
        kind = next(kind for kind in _COMPILE if kind in entry)
        type, where = _COMPILE[kind](image.name, entry)
        found.append(Trigger(image.name, position, kind, type, where, entry))
    return tuple(found)


def explain(trigger: Trigger, event: Event) -> str | None:
    """Why the event requests the trigger's image; None when it does not. Never raises, whatever the event.

    An image's own publication never requests it again.
    """
    if event.type != trigger.type and not (is_glob(trigger.type) and glob(trigger.type, event.type)):
        return None
    ours = event.source == "imageflow" or event.source.startswith("imageflow:")
    if trigger.kind in _OWN and not ours:
        return None
    if ours and event.type == PUBLISH and event.subject == trigger.image:
        return None
    try:
        return reason(trigger, event) if holds(trigger.where, event) else None
    except Broken:
        return None


def git_source(url: str) -> str:
    """The event source of this repository, as its forge names it: without user name, password and `.git`."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url.rstrip("/")
    host, slash, path = rest.partition("/")
    plain = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/")
    return plain if scheme == "file" else plain.removesuffix(".git")


def _schedule(image: str, entry: Json) -> tuple[str, Json]:
    return SCHEDULE, {"$subject": image, "schedule": entry["schedule"]}


def _image(_image: str, entry: Json) -> tuple[str, Json]:
    return PUBLISH, {"$subject": entry["image"], "unchanged": {"ne": True}}


def _event(_image: str, entry: Json) -> tuple[str, Json]:
    return str(entry["event"]), entry.get("where", {})


def _git(_image: str, entry: Json) -> tuple[str, Json]:
    ref: str = entry["ref"]
    where: dict[str, Any] = {"$source": git_source(entry["git"]), "ref": {"glob": ref} if is_glob(ref) else ref}
    if ref.startswith("refs/tags/"):
        return "git.tag", where
    if ref.startswith("refs/heads/"):
        return "git.push", where
    return "git.*", where | {"$type": {"in": ["git.push", "git.tag"]}}


def _watch(image: str, entry: Json) -> tuple[str, Json]:
    return CHANGED, {"$subject": image, "input": entry["watch"]}


_COMPILE: dict[str, Callable[[str, Json], tuple[str, Json]]] = {
    "schedule": _schedule,
    "image": _image,
    "event": _event,
    "git": _git,
    "watch": _watch,
}
