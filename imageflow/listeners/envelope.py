"""CloudEvents in AMQP messages: structured, several in one, or binary with their attributes in the headers. Pure.

Both bindings are understood: that of AMQP 1.0 (headers cloudEvents:NAME and cloudEvents_NAME), which brokers
translate for AMQP 0-9-1, and that of RabbitMQ (ce-NAME).
"""

from __future__ import annotations

import base64
import datetime
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.formats.json import JSONFormat

from imageflow.cloudevent import event_of
from imageflow.errors import BadInput
from imageflow.model import Event

_STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
_JSON = re.compile(r"(application|text)/([a-z0-9.+-]+\+)?json")
_AMQP_HEADER = ("cloudEvents:", "cloudEvents_")
_RABBITMQ_HEADER = "ce-"


def read(content_type: str | None, headers: Mapping[str, Any], body: bytes) -> Iterator[tuple[Event | BadInput, bytes]]:
    """Each event of a message, or why it is none, and the bytes that say it. Raises BadInput when all is unreadable."""
    media, _, _ = (content_type or "").partition(";")
    media = media.strip().lower()
    if media == _BATCH:
        yield from _several(body)
    elif media.startswith("application/cloudevents") and media != _STRUCTURED:
        raise BadInput(f"CloudEvents as {media[:80]} are not understood", hint=f"send {_STRUCTURED}")
    elif media == _STRUCTURED:
        yield _structured(_json(body)), body
    else:
        yield _binary(content_type, media, headers, body), body


def _several(body: bytes) -> Iterator[tuple[Event | BadInput, bytes]]:
    batch = _json(body)
    if not isinstance(batch, list):
        raise BadInput("a batch of CloudEvents is a JSON list")
    for one in batch:
        raw = json.dumps(one).encode()
        try:
            yield _structured(one), raw
        except BadInput as error:
            yield error, raw


def _structured(value: Any) -> Event:
    if not isinstance(value, dict):
        raise BadInput("a CloudEvent is a JSON object")
    if not value.get("specversion"):
        raise BadInput("the CloudEvent has no specversion")
    try:
        return event_of(JSONFormat().read(None, json.dumps(value)))
    except BadInput:
        raise
    except CloudEventValidationError as error:
        raise BadInput(f"no CloudEvent: {_said(error)}") from error
    except Exception as error:
        raise BadInput(f"no CloudEvent: {error}") from error


def _binary(content_type: str | None, media: str, headers: Mapping[str, Any], body: bytes) -> Event:
    given = {str(name): _value(value) for name, value in headers.items()}
    if _JSON.fullmatch(media) and body:
        _json(body)
    try:
        if any(name.startswith(_AMQP_HEADER) for name in given):
            properties = {} if content_type is None else {"content-type": content_type}
            return event_of(amqp.from_binary(amqp.AMQPMessage(properties, given, body), JSONFormat()))
        if any(name.lower().startswith(_RABBITMQ_HEADER) for name in given):
            texts = {name: _text(value) for name, value in given.items()}
            return event_of(rabbitmq.from_binary(rabbitmq.RabbitMQMessage(texts, content_type, body), JSONFormat()))
    except BadInput:
        raise
    except CloudEventValidationError as error:
        raise BadInput(f"no CloudEvent: {_said(error)}") from error
    except Exception as error:
        raise BadInput(f"no CloudEvent: {error}") from error
    raise BadInput("no CloudEvent", hint=f"content type {_STRUCTURED}, or the attributes as headers cloudEvents:NAME")


def _value(value: Any) -> Any:
    """A header as the library wants it: AMQP 0-9-1 has byte strings, and times without a zone, which are UTC."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=datetime.UTC)
    return value


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime.datetime) else str(value)


def _json(body: bytes) -> Any:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the message is no JSON: {error}") from error


def _said(error: CloudEventValidationError) -> str:
    return " ".join(str(error).split())[:500]


def printable(body: bytes) -> bytes:
    """What is kept of a body that nobody can read."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return base64.b64encode(body)
    return body
