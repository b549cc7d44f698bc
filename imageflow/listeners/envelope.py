"""CloudEvents in brokers' messages: structured, batched, or binary with attributes in the headers. Pure.

The bindings' names are understood whatever the broker: AMQP 1.0's (headers cloudEvents:NAME and cloudEvents_NAME),
which brokers translate for AMQP 0-9-1, RabbitMQ's (ce-NAME) and Kafka's (ce_NAME), which bridges pass on.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Iterator, Mapping
from typing import Any

from imageflow.errors import BadInput
from imageflow.events import cloudevent
from imageflow.events.cloudevent import BATCH, STRUCTURED, media_type
from imageflow.events.reading import parse_json
from imageflow.model import Event

_AMQP = ("cloudEvents:", "cloudEvents_")  # its names, and its types of values
_TEXT = ("ce-", "ce_")  # names in any case, values as text


def read(content_type: str | None, headers: Mapping[str, Any], body: bytes) -> Iterator[tuple[Event | BadInput, bytes]]:
    """Each event of a message, or why it is invalid, with its bytes. Raises BadInput when the whole message is unreadable."""
    given = {str(name): _value(value) for name, value in headers.items()}
    if not content_type:  # Kafka has no property for it
        content_type = next((str(v) for k, v in given.items() if k.lower() == "content-type" and v), None)
    media = media_type(content_type)
    if media == BATCH:
        yield from _several(body)
    elif media.startswith("application/cloudevents") and media != STRUCTURED:
        raise BadInput(f"CloudEvents as {media[:80]} are not understood", hint=f"send {STRUCTURED}")
    elif media == STRUCTURED:
        yield cloudevent.of_json(parse_json(body, "the message"), "the message"), body
    else:
        yield cloudevent.of_headers(_attributes(given), content_type, body, "the message"), body


def _several(body: bytes) -> Iterator[tuple[Event | BadInput, bytes]]:
    batch = parse_json(body, "the message")
    if not isinstance(batch, list):
        raise BadInput("a batch of CloudEvents is a JSON list")
    for number, one in enumerate(batch):
        raw = json.dumps(one).encode()
        try:
            yield cloudevent.of_json(one, f"events[{number}]"), raw
        except BadInput as error:
            yield error, raw


def _attributes(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes in a message's headers; raises BadInput when there are none."""
    found = {name[len(_AMQP[0]) :]: value for name, value in headers.items() if name.startswith(_AMQP)}
    if not found:
        found = {name[3:].lower(): _text(value) for name, value in headers.items() if name.lower().startswith(_TEXT)}
    if not found:
        raise BadInput(
            "not a CloudEvent", hint=f"content type {STRUCTURED}, or the attributes as headers cloudEvents:NAME"
        )
    return found


def _value(value: Any) -> Any:
    """AMQP 0-9-1 has byte strings, and times without a zone, which are UTC."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=datetime.UTC)
    return value


def _text(value: Any) -> Any:
    return value if value is None or isinstance(value, datetime.datetime) else str(value)


def printable(body: bytes) -> bytes:
    """What is kept of an unreadable body."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return base64.b64encode(body)
    return body
