"""One CloudEvent in each of the ways in which it can come: HTTP's three, a broker's three names, a file."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from imageflow.api import envelopes
from imageflow.errors import BadInput
from imageflow.events import cloudevent
from imageflow.listeners import envelope
from imageflow.model import Event

Way = Callable[[Mapping[str, Any], Any], Event]  # (attributes, data: bytes, or JSON) -> what is read


def _document(attributes: Mapping[str, Any], data: Any) -> bytes:
    if isinstance(data, bytes):
        return json.dumps({**attributes, "data_base64": base64.b64encode(data).decode()}).encode()
    return json.dumps({**attributes, "data": data}).encode()


def _beside(attributes: Mapping[str, Any], data: Any) -> tuple[dict[str, Any], str | None, bytes]:
    body = data if isinstance(data, bytes) else b"" if data is None else json.dumps(data).encode()
    rest = {name: value for name, value in attributes.items() if name != "datacontenttype"}
    kind = attributes.get("datacontenttype") or (None if data is None else "application/json")
    return rest, kind, body


def _broker(content_type: str | None, headers: Mapping[str, Any], body: bytes) -> Event:
    [(event, _)] = envelope.read(content_type, headers, body)
    if isinstance(event, BadInput):
        raise event
    return event


def _prefixed(prefix: str) -> Way:
    def read(attributes: Mapping[str, Any], data: Any) -> Event:
        rest, kind, body = _beside(attributes, data)
        return _broker(kind, {prefix + name: value for name, value in rest.items()}, body)

    return read


def _http_binary(attributes: Mapping[str, Any], data: Any) -> Event:
    rest, kind, body = _beside(attributes, data)
    headers = [(f"ce-{name}", str(value)) for name, value in rest.items() if value is not None]
    [event] = envelopes.events_of("binary", headers + ([("content-type", kind)] if kind else []), body)
    return event


WAYS: dict[str, Way] = {
    "http structured": lambda a, d: envelopes.events_of("structured", [], _document(a, d))[0],
    "http batch": lambda a, d: envelopes.events_of("batch", [], b"[" + _document(a, d) + b"]")[0],
    "http binary": _http_binary,
    "broker structured": lambda a, d: _broker("application/cloudevents+json; charset=UTF-8", {}, _document(a, d)),
    "broker batch": lambda a, d: _broker("Application/CloudEvents-Batch+JSON", {}, b"[" + _document(a, d) + b"]"),
    "broker cloudEvents:": _prefixed("cloudEvents:"),
    "broker cloudEvents_": _prefixed("cloudEvents_"),
    "broker ce-": _prefixed("ce-"),
    "broker ce_": _prefixed("ce_"),
    "file": lambda a, d: cloudevent.read(_document(a, d), "FILE")[0],
    "file with a list": lambda a, d: cloudevent.read(b"\xef\xbb\xbf [" + _document(a, d) + b"]", "FILE")[0],
}
