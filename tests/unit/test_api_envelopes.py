"""CloudEvents in the forms that HTTP has for them, and the JSON that bodies are: events, or our own error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.api.envelopes import events_of
from imageflow.errors import BadInput
from imageflow.events.reading import parse_json
from tests.examples import examples
from tests.unit.any_json import ANY_JSON, KEYS


@examples(2)
@given(body=st.one_of(st.binary(max_size=200), ANY_JSON.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_json_or_bad_input(body: bytes) -> None:
    try:
        parse_json(body)
    except BadInput as error:
        assert str(error).startswith("the body")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff", "UTF-8"),
        (b"{", "line 1 column 2"),
        (b'{"a": NaN}', "NaN"),
        (b"[1e999]", "too large"),
        (b"[" * 100000, "nested"),
        (b"[" * 65 + b"]" * 65, "64 levels"),
        (b"1" * 5000, "usable"),
        (rb'["\ud800"]', "surrogate"),
        (b"", "line 1"),
    ],
)
def test_hostile_json_is_named(body: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_json(body)


STRUCTURED = {"specversion": "1.0", "id": "1", "source": "x", "type": "t"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, "id is missing"),
        ({"id": 5}, "id is missing"),
        ({"source": ""}, "source is missing"),
        ({"specversion": "0.3"}, "1.0"),
        ({"time": "yesterday"}, "not a CloudEvent"),
        ({"time": "2026-01-31T12:00:00"}, "time"),
        ({"time": 5}, "not a CloudEvent"),
        ({"subject": ""}, "subject"),
        ({"data": 1, "data_base64": "AA=="}, "both"),
        ({"data_base64": "A"}, "not a CloudEvent"),
        ({"Bad-Name": "x"}, "Bad-Name"),
    ],
)
def test_a_structured_event_that_is_none(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        events_of("structured", [], json.dumps(STRUCTURED | change).encode())
    with pytest.raises(BadInput, match=r"events\[1\].*" + words):
        events_of("batch", [], json.dumps([STRUCTURED, STRUCTURED | change]).encode())


def test_an_event_without_time_has_none() -> None:
    [event] = events_of("structured", [], json.dumps(STRUCTURED).encode())
    assert event.time is None
    [event] = events_of("structured", [], json.dumps(STRUCTURED | {"time": "1970-01-01T00:00:01Z"}).encode())
    assert event.time == 1.0


def test_a_binary_event() -> None:
    headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "x%20y"), ("ce-type", "t"), ("host", "h")]
    [event] = events_of("binary", [*headers, ("content-type", "application/json")], b'{"a": [1]}')
    assert (event.source, event.id, event.type, event.data) == ("x y", "1", "t", {"a": [1]})
    with pytest.raises(BadInput, match="twice"):
        events_of("binary", [*headers, ("ce-id", "2")], b"")
    with pytest.raises(BadInput, match="column"):
        events_of("binary", headers, b"{")
    with pytest.raises(BadInput, match="ce-"):
        events_of("binary", headers[:2], b"")
    [event] = events_of("binary", [*headers, ("content-type", "application/octet-stream")], b"\xff")
    assert event.data == {"base64": "/w=="}


@examples(2)
@given(
    value=st.dictionaries(
        st.sampled_from(["id", "source", "type", "time", "subject", "data", "data_base64", "datacontenttype", "x"])
        | KEYS,
        ANY_JSON,
    )
)
def test_any_object_is_an_event_or_bad_input(value: dict[str, Any]) -> None:
    for one in (value, STRUCTURED | value):
        try:
            events_of("structured", [], json.dumps(one).encode())
        except BadInput as error:
            assert str(error)


HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)


@examples(2)
@given(
    values=st.dictionaries(st.sampled_from(["id", "source", "type", "time", "subject", "data", "x-y"]), HEADER),
    kind=HEADER | st.just("application/json"),
    body=st.binary(max_size=30),
)
def test_any_headers_are_an_event_or_bad_input(values: dict[str, str], kind: str, body: bytes) -> None:
    usual = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "x", "ce-type": "t", "content-type": kind}
    given_headers = usual | {f"ce-{name}": value for name, value in values.items()}
    try:
        events_of("binary", list(given_headers.items()), body)
    except BadInput as error:
        assert str(error)
