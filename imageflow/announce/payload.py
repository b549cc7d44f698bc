"""The wire formats of announcements: versioned payloads as Nova's, and CloudEvents. Pure.

Adding a field makes a new minor version; removing one, or changing its meaning, makes a new major version.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from imageflow.announce import cdevents
from imageflow.config import Config
from imageflow.errors import ConfigError
from imageflow.events.own import own
from imageflow.model import Announcement

VERSIONS = {"BuildPayload": "1.0", "ImagePayload": "1.1"}
CONTENT_TYPE = JSONFormat.CONTENT_TYPE


def payload_name(kind: str) -> str:
    """BuildPayload or ImagePayload, by the type of the announcement."""
    return "ImagePayload" if kind.startswith("imageflow.image.") else "BuildPayload"


def versioned(announcement: Announcement) -> dict[str, Any]:
    """The payload of a notification: the data, its name and its version."""
    name = payload_name(announcement.type)
    return {
        "imageflow_object.name": name,
        "imageflow_object.namespace": "imageflow",
        "imageflow_object.version": VERSIONS[name],
        "imageflow_object.data": dict(announcement.data),
    }


def priority(announcement: Announcement) -> str:
    """Of a notification: ERROR for failures, otherwise INFO."""
    return "ERROR" if announcement.type.endswith(".error") else "INFO"


def source(config: Config) -> str:
    """Our source; not 'imageflow', which listeners accept from no other process."""
    source = config.announce.source or f"//{config.host}/imageflow"
    if own(source):
        raise ConfigError(
            f"[announce] source can't be {source!r}", hint="listeners take that for a forgery of their own"
        )
    return source


def cloud(announcement: Announcement, source: str) -> CloudEvent:
    """An announcement as a CloudEvent: its data is the payload's, `dataschema` names the payload and its version."""
    name = payload_name(announcement.type)
    attributes = _attributes(announcement.id, source, announcement.type, subject(announcement.data), announcement.time)
    attributes |= {"datacontenttype": "application/json", "dataschema": f"urn:imageflow:{name}:{VERSIONS[name]}"}
    return CloudEvent(attributes, dict(announcement.data))


def clouds(announcement: Announcement, source: str, *, with_cdevents: bool) -> list[CloudEvent]:
    """All the CloudEvents that an announcement is sent as, in order."""
    found = [cloud(announcement, source)]
    for event in cdevents.of(announcement, source) if with_cdevents else ():
        context = event["context"]
        attributes = _attributes(context["id"], source, context["type"], event["subject"]["id"], announcement.time)
        found.append(CloudEvent(attributes | {"datacontenttype": "application/cdevents+json"}, event))
    return found


def encode(event: CloudEvent) -> bytes:
    """A CloudEvent in the structured JSON format."""
    return JSONFormat().write(event)


def subject(data: Mapping[str, Any]) -> str:
    """The name of the image that the announcement is about."""
    return str(data.get("image") or data.get("name") or "")


def _attributes(id: str, source: str, kind: str, subject: str, time: float) -> dict[str, Any]:
    moment = datetime.datetime.fromtimestamp(round(time, 3), datetime.UTC)
    return {"specversion": "1.0", "id": id, "source": source, "type": kind, "subject": subject, "time": moment}
