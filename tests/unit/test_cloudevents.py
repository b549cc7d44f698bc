"""CloudEvents 1.0 mean the same whichever way they come: attributes, times, and data of any content type."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from imageflow.api.envelopes import events_of
from imageflow.errors import BadInput
from imageflow.events import cloudevent
from imageflow.listeners import envelope
from imageflow.model import Event
from tests.samples.cloudevents import WAYS, Way

REQUIRED = {"specversion": "1.0", "id": "n1", "source": "/ci", "type": "com.example.release"}
BINARY = ("http binary", "broker cloudEvents:", "broker cloudEvents_", "broker ce-", "broker ce_")
CASELESS = ("http binary", "broker ce-", "broker ce_")


def every_way(function: Any) -> Any:
    return pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)(function)


@every_way
def test_null_is_unset(way: Way) -> None:
    unset = dict.fromkeys(("subject", "time", "datacontenttype", "dataschema", "traceparent"))
    event = way(REQUIRED | unset, {"name": "infra"})
    assert event == Event("/ci", "n1", "com.example.release", data={"name": "infra"})
    for name in REQUIRED:
        with pytest.raises(BadInput, match=f"{name} is missing"):
            way(REQUIRED | {name: None}, None)


@every_way
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-31T12:00:00Z", 1769860800.0),
        ("2026-01-31t12:00:00z", 1769860800.0),
        ("2026-01-31T13:30:00+01:30", 1769860800.0),
        ("2026-01-31T11:00:00.5-01:00", 1769860800.5),
        ("2026-01-31T12:00:00.123456789Z", 1769860800.123456789),
        ("2026-01-31 12:00:00+0000", 1769860800.0),
        ("2016-12-31T23:59:60Z", 1483228800.0),
        ("2017-01-01T00:59:60.25+01:00", 1483228800.25),
        ("1969-12-31T23:59:59.5-00:00", -0.5),
        ("0001-01-01T00:00:00Z", -62135596800.0),  # .NET's and Go's zero
        ("0001-01-01T00:00:00+12:00", -62135640000.0),
    ],
)
def test_times_are_those_of_rfc_3339(way: Way, text: str, seconds: float) -> None:
    assert way(REQUIRED | {"time": text}, None).time == pytest.approx(seconds, abs=1e-6)


@every_way
@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31T12:00:00",
        "2026-01-31",
        "2026-W05-6T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-01-31T12:00:61Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:00:00+24:00",
        "0000-01-01T00:00:00Z",
        "",
        "now",
    ],
)
def test_other_times_are_refused_everywhere(way: Way, text: str) -> None:
    with pytest.raises(BadInput, match="RFC 3339"):
        way(REQUIRED | {"time": text}, None)


@every_way
@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"sub_ject": "x"}, "sub_ject"),
        ({"sübject": "x"}, "bject"),
        ({"subject": ""}, "subject is empty"),
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": "1"}, "specversion"),
    ],
)
def test_names_and_versions_that_are_none_are_refused_everywhere(way: Way, given: dict[str, Any], seen: str) -> None:
    with pytest.raises(BadInput, match=seen):
        way(REQUIRED | given, None)


@every_way
@pytest.mark.parametrize(
    ("kind", "data", "read"),
    [
        ("application/json", {"a": [1, None]}, {"a": [1, None]}),
        ("application/json; charset=utf-8", b'{"a": 1}', {"a": 1}),
        ("Application/JSON", b"[1]", [1]),
        ("text/json", b'"text"', "text"),
        ("application/vnd.acme.release.v2+json;v=1", b'{"a": 1}', {"a": 1}),
        ("image/example+json", b'{"a": 1}', {"a": 1}),
        ("application/json", b"\xef\xbb\xbf{}", {}),
        ("application/json", b"null", None),
        ("text/plain", "snö".encode(), "snö"),
        ("text/plain; charset=iso-8859-1", b"sn\xf6", "snö"),
        ('text/plain; charset="ISO-8859-1"', b"sn\xf6", "snö"),
        ("text/plain; charset=rot13", b"abc", {"base64": "YWJj"}),
        ("application/xml", b'<much wow="xml"/>', '<much wow="xml"/>'),
        ("application/octet-stream", b"\xff\x00", {"base64": "/wA="}),
        ("application/octet-stream", b"abc", "abc"),
        ("application/jsonish", b"{", "{"),
        (None, {"a": 1}, {"a": 1}),
        (None, b'{"a": 1}', {"a": 1}),
        ("text/plain", b"", None),
    ],
)
def test_the_same_bytes_are_the_same_data_whichever_way(way: Way, kind: str | None, data: Any, read: Any) -> None:
    assert way(REQUIRED | {"datacontenttype": kind}, data).data == read


@every_way
@pytest.mark.parametrize(("kind", "data"), [("application/json", b"{"), (None, b"{"), ("a/b+json", b"\xff")])
def test_data_that_is_not_the_json_it_claims_to_be_is_refused_everywhere(
    way: Way, kind: str | None, data: bytes
) -> None:
    with pytest.raises(BadInput, match="its data is not"):
        way(REQUIRED | {"datacontenttype": kind}, data)


@every_way
def test_extensions_of_every_type_are_let_be(way: Way) -> None:
    event = way(REQUIRED | {"sequence": 5, "sampled": True, "traceparent": "00-1-2-01", "blob": "aGk="}, None)
    assert event == Event("/ci", "n1", "com.example.release")


@pytest.mark.parametrize("name", BINARY)
def test_data_is_no_attribute(name: str) -> None:
    with pytest.raises(BadInput, match="data"):
        WAYS[name](REQUIRED | {"data": "x"}, None)


@pytest.mark.parametrize("name", [name for name in WAYS if name not in CASELESS])
def test_names_have_a_case_where_the_binding_gives_them_one(name: str) -> None:
    with pytest.raises(BadInput, match="Subject"):
        WAYS[name](REQUIRED | {"Subject": "x"}, None)


@pytest.mark.parametrize("prefix", ["ce-", "CE-", "ce_", "Ce_"])
def test_names_of_headers_have_no_case(prefix: str) -> None:
    headers = {f"{prefix}{name.upper()}": value for name, value in REQUIRED.items()}
    [(event, _)] = envelope.read(None, headers, b"")
    assert isinstance(event, Event) and event.id == "n1"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("Euro%20%e2%82%ac", "Euro €"),
        ('"say \\"hi\\" %25"', 'say "hi" %'),
        ("100%", "100%"),
        ("%2541", "%41"),
        ("snö".encode().decode("latin-1"), "snö"),
        ("sn\xf6", "snö"),
        ("  x\t", "x"),
    ],
)
def test_values_of_headers_are_decoded_once(given: str, read: str) -> None:
    headers = [(f"ce-{name}", value) for name, value in REQUIRED.items()]
    assert events_of("binary", [*headers, ("ce-subject", given)], b"")[0].subject == read


@pytest.mark.parametrize("given", ["%C0%A0", "a%FF", "%E2%82"])
def test_values_of_headers_that_are_no_utf_8_are_refused(given: str) -> None:
    headers = [(f"ce-{name}", value) for name, value in REQUIRED.items()]
    with pytest.raises(BadInput, match="ce-subject"):
        events_of("binary", [*headers, ("ce-subject", given)], b"")


def test_a_batch_may_be_empty() -> None:
    assert events_of("batch", [], b"[]") == []
    assert list(envelope.read("application/cloudevents-batch+json", {}, b"[]")) == []
    assert cloudevent.read(b"[]", "FILE") == []


def test_null_data_beside_data_base64_is_unset() -> None:
    [event] = cloudevent.read(
        b'{"specversion":"1.0","id":"1","source":"x","type":"t","data":null,"data_base64":"e30="}', "F"
    )
    assert event.data == {}


def test_kafkas_content_type_is_a_header() -> None:
    headers = {f"ce_{name}": value.encode() for name, value in REQUIRED.items()}
    [(event, _)] = envelope.read(None, headers | {"content-type": b"text/plain"}, b"{}")
    assert isinstance(event, Event) and event.data == "{}"
    document = b'{"specversion":"1.0","id":"1","source":"x","type":"t"}'
    [(event, _)] = envelope.read(None, {"content-type": "application/cloudevents+json"}, document)
    assert isinstance(event, Event) and event.id == "1"


def test_amqps_own_types() -> None:
    moment = datetime.datetime(2026, 1, 31, 12)
    for time in (moment, 1769860800000, "2026-01-31T12:00:00Z", b"2026-01-31T12:00:00Z"):
        headers = {f"cloudEvents:{name}": value for name, value in (REQUIRED | {"time": time}).items()}
        [(event, _)] = envelope.read(None, headers | {"cloudEvents:subject": None}, b"")
        assert isinstance(event, Event) and (event.time, event.subject) == (1769860800.0, None)
