"""CloudEvents in HTTP requests: structured, batch and binary; the library `cloudevents` reads the formats. Pure."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from cloudevents.core.bindings.http import HTTPMessage, from_binary
from cloudevents.core.exceptions import BaseCloudEventException
from cloudevents.core.formats.json import JSONFormat

from imageflow.api.reading import parse_json
from imageflow.cloudevent import event_of
from imageflow.errors import BadInput
from imageflow.model import Event

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
MOST = 1000  # events in one batch
_REQUIRED = ("specversion", "id", "source", "type")
_JSON = re.compile(r"(application|text)/([a-z0-9.-]+\+)?json")

Mode = Literal["structured", "batch", "binary"]


def media_type(content_type: str | None) -> str:
    """'application/json' of 'Application/JSON; charset=utf-8'."""
    return (content_type or "").partition(";")[0].strip().lower()


def mode_of(content_type: str | None, names: Sequence[str]) -> Mode | None:
    """How a request with this content type and these header names holds CloudEvents; None: not at all."""
    media = media_type(content_type)
    if media == BATCH:
        return "batch"
    if media == STRUCTURED:
        return "structured"
    if media.startswith("application/cloudevents"):
        return None
    return "binary" if any(name.startswith("ce-") for name in names) else None


def events_of(mode: Mode, headers: Sequence[tuple[str, str]], body: bytes) -> list[Event]:
    """The events of a request; `headers`: names in lower case. Raises BadInput that says which and where."""
    if mode == "binary":
        return [_binary(headers, body)]
    value = parse_json(body)
    if mode == "structured":
        return [_structured(value, "the event")]
    if not isinstance(value, list):
        raise BadInput("the batch is no JSON list", hint=f"one event alone is {STRUCTURED}")
    if len(value) > MOST:
        raise BadInput(f"the batch has {len(value)} events, {MOST} at most are taken")
    return [_structured(one, f"events[{n}]") for n, one in enumerate(value)]


def _structured(value: Any, where: str) -> Event:
    if not isinstance(value, dict):
        raise BadInput(f"{where} is no JSON object")
    _has_names(value, where)
    if "data" in value and "data_base64" in value:
        raise BadInput(f"{where} has both data and data_base64")
    try:
        cloud = JSONFormat().read(None, json.dumps(value))
        event = event_of(cloud)
    except BadInput as error:
        raise BadInput(f"{where}: {error.message}", hint=error.hint) from None
    except (BaseCloudEventException, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadInput(f"{where} is no CloudEvent: {_words(error)}") from None
    return event if "time" in value else dataclasses.replace(event, time=None)


def _binary(headers: Sequence[tuple[str, str]], body: bytes) -> Event:
    fields = dict(headers)
    attributes = {name[3:]: value for name, value in headers if name.startswith("ce-")}
    if len([name for name, _ in headers if name.startswith("ce-")]) > len(attributes):
        raise BadInput("a ce- header is there twice")
    _has_names(attributes, "the event's headers (ce-…)")
    if _JSON.fullmatch(media_type(fields.get("content-type")) or "application/json") and body:
        parse_json(body)
    relevant = {name: value for name, value in headers if name.startswith("ce-") or name == "content-type"}
    try:
        event = event_of(from_binary(HTTPMessage(relevant, body), JSONFormat()))
    except BadInput as error:
        raise BadInput(f"the event: {error.message}", hint=error.hint) from None
    except (BaseCloudEventException, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadInput(f"the event's headers are no CloudEvent: {_words(error)}") from None
    return event if "time" in attributes else dataclasses.replace(event, time=None)


def _has_names(attributes: dict[str, Any], where: str) -> None:
    # the library would invent an id: the same event would be another one each time it is sent
    for name in _REQUIRED:
        if not isinstance(attributes.get(name), str) or not attributes[name]:
            raise BadInput(f"{where}: {name} is missing or no text", hint="CloudEvents 1.0 asks for it")
    if attributes["specversion"] != "1.0":
        raise BadInput(f"{where}: specversion has to be 1.0")


def _words(error: Exception) -> str:
    return str(error).removeprefix("Failed to create CloudEvent due to the validation errors::").strip()[:500]
