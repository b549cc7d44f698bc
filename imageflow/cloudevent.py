"""CloudEvents 1.0 and our Event, one into the other; the library `cloudevents` knows the formats. Pure."""

from __future__ import annotations

import base64
import datetime
from typing import Any

from cloudevents.core.v1.event import CloudEvent

from imageflow.errors import BadInput
from imageflow.model import Event

OWN = "imageflow"  # the source of what we say ourselves; nobody else may
OWN_PREFIX = "imageflow:"


def own(source: str) -> bool:
    """Whether events of this source come from us, and must not come from outside."""
    return source == OWN or source.startswith(OWN_PREFIX)


def event_of(cloud: Any) -> Event:
    """The Event of a CloudEvent of the library; raises BadInput when it is not usable."""
    data = cloud.get_data()
    if isinstance(data, bytes | bytearray):
        data = {"base64": base64.b64encode(data).decode("ascii")}
    moment: datetime.datetime | None = cloud.get_time()
    if moment is not None and moment.tzinfo is None:
        raise BadInput("the event's time has no time zone", hint="RFC 3339, such as 2026-01-31T12:00:00Z")
    return Event(
        source=str(cloud.get_source()),
        id=str(cloud.get_id()),
        type=str(cloud.get_type()),
        subject=cloud.get_subject(),
        time=None if moment is None else moment.timestamp(),
        data=data,
    )


def cloud_of(event: Event) -> CloudEvent:
    """The library's CloudEvent of an Event."""
    attributes: dict[str, Any] = {
        "specversion": "1.0",
        "source": event.source,
        "id": event.id,
        "type": event.type,
        "datacontenttype": "application/json",
    }
    if event.subject:
        attributes["subject"] = event.subject
    if event.time is not None:
        attributes["time"] = datetime.datetime.fromtimestamp(event.time, datetime.UTC)
    return CloudEvent(attributes, event.data)
