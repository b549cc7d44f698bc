"""CloudEvents in HTTP requests: structured, batch and binary. Pure."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Sequence
from typing import Literal

from imageflow.errors import BadInput
from imageflow.events import cloudevent
from imageflow.events.cloudevent import BATCH, STRUCTURED, media_type
from imageflow.events.reading import parse_json
from imageflow.model import Event

MOST = 1000  # events in one batch
PREFIX = "ce-"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)

Mode = Literal["structured", "batch", "binary"]


def mode_of(content_type: str | None, names: Sequence[str]) -> Mode | None:
    """How a request with this content type and these header names carries CloudEvents; None: it does not."""
    media = media_type(content_type)
    if media == BATCH:
        return "batch"
    if media == STRUCTURED:
        return "structured"
    if media.startswith("application/cloudevents"):
        return None
    return "binary" if any(name.startswith(PREFIX) for name in names) else None


def events_of(mode: Mode, headers: Sequence[tuple[str, str]], body: bytes) -> list[Event]:
    """The events of a request; `headers`: names in lower case. Raises BadInput that says which event and where."""
    if mode == "binary":
        return [_binary(headers, body)]
    value = parse_json(body)
    if mode == "structured":
        return [cloudevent.of_json(value, "the event")]
    if not isinstance(value, list):
        raise BadInput("the batch is not a JSON list", hint=f"a single event is sent as {STRUCTURED}")
    if len(value) > MOST:
        raise BadInput(f"the batch has {len(value)} events, at most {MOST} are accepted")
    return [cloudevent.of_json(one, f"events[{n}]") for n, one in enumerate(value)]


def _binary(headers: Sequence[tuple[str, str]], body: bytes) -> Event:
    given = [(name.removeprefix(PREFIX), value) for name, value in headers if name.startswith(PREFIX)]
    if len(dict(given)) < len(given):
        raise BadInput("a ce- header occurs twice")
    attributes = {name: _value(f"{PREFIX}{name}", value) for name, value in given}
    return cloudevent.of_headers(attributes, dict(headers).get("content-type"), body, "the event in the ce- headers")


def _value(name: str, value: str) -> str:
    """A header's value as the HTTP binding encodes it: percent-encoded UTF-8, and quoted by older senders."""
    value = value.strip(" \t")
    if match := _QUOTED.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL)
    try:
        value = value.encode("latin-1").decode()  # of a sender that does not encode: the server read bytes as Latin-1
    except UnicodeError:
        pass
    try:
        return urllib.parse.unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise BadInput(f"{name[:80]} is not text in UTF-8, percent-encoded") from None
