"""CloudEvents 1.0 and our Event, one into the other; the library `cloudevents` knows the formats. Pure."""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any

from cloudevents.core.formats.json import JSONFormat
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


def read(text: bytes, where: str) -> list[Event]:
    """The events of a JSON document: one CloudEvent, or a list of them. Raises BadInput that names the place."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: no JSON: {error}", hint="a CloudEvent 1.0, or a list of them") from error
    found = []
    for number, one in enumerate(document if isinstance(document, list) else [document]):
        place = f"{where}: [{number}]" if isinstance(document, list) else where
        if not isinstance(one, dict):
            raise BadInput(f"{place}: a CloudEvent is an object", hint="specversion, source, id, type, data")
        try:
            found.append(event_of(JSONFormat().read(None, json.dumps(one))))
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"{place}: no CloudEvent: {error}", hint="specversion 1.0, source, id and type are needed"
            ) from error
    return found
