"""CloudEvents in AMQP messages: pure."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from cloudevents.core.bindings import amqp, rabbitmq
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from imageflow.errors import BadInput
from imageflow.listeners import envelope
from imageflow.model import Event

MOMENT = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
ATTRIBUTES: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "test",
    "type": "test.happened",
    "subject": "s",
    "time": MOMENT,
    "datacontenttype": "application/json",
}
CLOUD = CloudEvent(ATTRIBUTES, {"n": 1})
EVENT = Event(source="test", id="1", type="test.happened", subject="s", time=MOMENT.timestamp(), data={"n": 1})


def one(content_type: str | None, headers: dict[str, Any], body: bytes) -> Event | BadInput:
    [(event, raw)] = envelope.read(content_type, headers, body)
    assert raw == body
    return event


def test_what_the_library_writes_is_read() -> None:
    structured = amqp.to_structured_event(CLOUD)
    assert one(structured.properties["content-type"], {}, structured.application_data) == EVENT
    binary = amqp.to_binary_event(CLOUD)
    assert one(binary.properties["content-type"], binary.application_properties, binary.application_data) == EVENT
    rabbit = rabbitmq.to_binary_event(CLOUD)
    assert one(rabbit.content_type, rabbit.headers, rabbit.body) == EVENT


TIMES = ("2026-01-31T12:00:00Z", datetime.datetime(2026, 1, 31, 12), MOMENT)


@pytest.mark.parametrize(
    ("prefix", "time"),
    [(prefix, time) for prefix in ("cloudEvents:", "cloudEvents_", "ce-") for time in TIMES]
    + [("cloudEvents:", 1769860800000)],  # milliseconds: only AMQP's own binding has times as numbers
)
def test_times(prefix: str, time: Any) -> None:
    headers = {prefix + name: value for name, value in ATTRIBUTES.items() if name != "datacontenttype"}
    assert one("application/json", headers | {f"{prefix}time": time}, b'{"n": 1}') == EVENT


def test_bytes_as_headers_and_data_that_is_no_json() -> None:
    headers = {
        f"cloudEvents:{name}": str(ATTRIBUTES[name]).encode() for name in ("specversion", "id", "source", "type")
    }
    event = one("image/png", headers, b"\xff\x00")
    assert isinstance(event, Event)
    assert event.data == {"base64": "/wA="}


def test_a_batch_keeps_its_good_ones() -> None:
    good = json.loads(amqp.to_structured_event(CLOUD).application_data)
    read = list(envelope.read("application/cloudevents-batch+json", {}, json.dumps([good, 5, {}, good]).encode()))
    assert [event if isinstance(event, Event) else "bad" for event, _ in read] == [EVENT, "bad", "bad", EVENT]
    assert [raw for _, raw in read[1:3]] == [b"5", b"{}"]
    assert list(envelope.read("application/cloudevents-batch+json", {}, b"[]")) == []


NOISE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=10,
)
NAMED = st.dictionaries(
    st.sampled_from(["specversion", "id", "source", "type", "time", "subject", "data", "data_base64", "Bad Name"]),
    NOISE,
)
TYPES = st.sampled_from(
    ["application/cloudevents+json", "application/cloudevents-batch+json", "application/json", "text/plain", "", None]
)


@given(TYPES, st.dictionaries(st.text(max_size=5), NOISE), st.binary() | NAMED.map(json.dumps).map(str.encode))
def test_anything(content_type: str | None, headers: dict[str, Any], body: bytes) -> None:
    try:
        for event, raw in envelope.read(content_type, headers, body):
            assert isinstance(event, Event | BadInput)
            envelope.printable(raw).decode()
    except BadInput as error:
        assert str(error)


@given(NAMED, st.sampled_from(["cloudEvents:", "cloudEvents_", "ce-"]), st.binary(max_size=30))
def test_any_headers(named: dict[str, Any], prefix: str, body: bytes) -> None:
    headers = {prefix + name: value for name, value in (ATTRIBUTES | named).items()}
    try:
        [(event, _)] = envelope.read("text/plain", headers, body)
    except BadInput:
        return
    assert isinstance(event, Event)
