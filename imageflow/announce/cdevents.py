"""Announcements as CDEvents 0.4.1 (cdevents.dev), for tools that do not know imageflow. Pure."""

from __future__ import annotations

import datetime
import urllib.parse
import uuid
from collections.abc import Mapping
from typing import Any

from imageflow.model import Announcement

SPEC = "0.4.1"
STARTED = "dev.cdevents.build.started.0.2.0"
FINISHED = "dev.cdevents.build.finished.0.2.0"
PACKAGED = "dev.cdevents.artifact.packaged.0.2.0"
PUBLISHED = "dev.cdevents.artifact.published.0.2.0"
_TYPES = {
    "imageflow.build.start": (STARTED,),
    "imageflow.build.end": (FINISHED,),
    "imageflow.build.error": (FINISHED,),
    "imageflow.image.publish": (PACKAGED, PUBLISHED),
}


def of(announcement: Announcement, source: str) -> list[dict[str, Any]]:
    """The equivalent CDEvents, in order; none if CDEvents has no type for it."""
    return [_event(announcement, source, kind) for kind in _TYPES.get(announcement.type, ())]


def artifact_id(name: str, digest: str) -> str:
    """The package URL of an image version."""
    return f"pkg:generic/{urllib.parse.quote(name, safe='')}@sha256%3A{digest}"


def _event(announcement: Announcement, source: str, kind: str) -> dict[str, Any]:
    data = announcement.data
    moment = datetime.datetime.fromtimestamp(announcement.time, datetime.UTC).isoformat(timespec="milliseconds")
    return {
        "context": {
            "version": SPEC,
            "id": str(uuid.uuid5(uuid.UUID(announcement.id), kind)),  # the same for every delivery
            "source": source,
            "type": kind,
            "timestamp": moment.replace("+00:00", "Z"),
        },
        "subject": _artifact(data, source, kind) if kind in (PACKAGED, PUBLISHED) else _build(data, source, kind),
        "customData": {"announcement": announcement.id, "type": announcement.type},
        "customDataContentType": "application/json",
    }


def _build(data: Mapping[str, Any], source: str, kind: str) -> dict[str, Any]:
    content = {}
    if kind == FINISHED and data.get("digest"):
        content["artifactId"] = artifact_id(data["image"], data["digest"])
    return {"id": data["id"], "source": source, "type": "build", "content": content}


def _artifact(data: Mapping[str, Any], source: str, kind: str) -> dict[str, Any]:
    # It was packaged from more than one commit: the build key stands for the recipe and all of its pins.
    content = {"change": {"id": data["key"], "source": source}} if kind == PACKAGED else {}
    return {
        "id": artifact_id(data["name"], data["digest"]),
        "source": source,
        "type": "artifact",
        "content": content,
    }
