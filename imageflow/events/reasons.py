"""Why an event requests an image, in words for an operator: pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from imageflow.events.own import CHANGED, PUBLISH, SCHEDULE
from imageflow.model import Event, Trigger
from imageflow.recipe.problems import short


def reason(trigger: Trigger, event: Event) -> str:
    """One line, with the trigger's place: `git.push of refs/heads/main in infra (on[1])`."""
    told = _TOLD.get(event.type, _git if event.type.startswith("git.") else _other)
    return f"{told(trigger, event)} (on[{trigger.position}])"


def _publish(_trigger: Trigger, event: Event) -> str:
    return f"{short(event.subject or 'an image')} has a new version"


def _schedule(_trigger: Trigger, event: Event) -> str:
    due, zone = _said(event, "due"), _said(event, "timezone")
    told = f"schedule {_said(event, 'schedule')}".rstrip() + (f" {zone}" if zone not in ("", "UTC") else "")
    return f"{told} was due" + (f" at {due}" if due else "")


def _changed(trigger: Trigger, event: Event) -> str:
    named = _said(event, "input") or "an input"
    if event.subject == trigger.image:
        return f"its {named} changed" if named in ("base", "iso") else f"{named} changed"
    return f"{named} of {short(event.subject or 'an image')} changed"


def _git(_trigger: Trigger, event: Event) -> str:
    ref = _said(event, "ref") or short(event.subject or "")
    where = _said(event, "repository") or short(event.source)
    return short(event.type) + (f" of {ref}" if ref else "") + f" in {where}"


def _other(_trigger: Trigger, event: Event) -> str:
    what = short(event.subject or "") or _said(event, "name")
    return short(event.type) + (f" of {what}" if what else f" from {short(event.source)}")


def _said(event: Event, key: str) -> str:
    value = event.data.get(key) if isinstance(event.data, Mapping) else None
    return short(value) if isinstance(value, str) else ""


_TOLD: dict[str, Callable[[Trigger, Event], str]] = {PUBLISH: _publish, SCHEDULE: _schedule, CHANGED: _changed}
