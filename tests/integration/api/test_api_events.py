"""CloudEvents over HTTP, to a real server on a real database: kept before the answer, once, from who may send them."""

from __future__ import annotations

import dataclasses
import json
import logging
import stat
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imageflow.events import door
from imageflow.persistence import events as rows
from tests.integration.api.api_site import EVENT, event, refused_alone
from tests.samples.webhook_senders import SENDERS, raw
from tests.servers.http_listener import AUTHORISED, JSON, TOKEN, Answer, Site, configured, serving

BATCH = AUTHORISED | {"content-type": "application/cloudevents-batch+json"}


def test_a_structured_event_is_stored_before_the_answer(site: Site) -> None:
    body = event(id="first", subject="x", time="2026-01-31T12:00:00Z")
    answer = site.send("POST", "/v1/events", body, JSON)
    assert answer.status == 202
    [kept] = answer.json["events"]
    assert kept == {"source": "test", "id": "first", "type": "t", "new": True, "seq": kept["seq"]}
    with site.database.read() as conn:
        stored = rows.get(conn, kept["seq"])
    assert (stored.listener, stored.subject, stored.time, stored.data) == ("http", "x", 1769860800.0, {"a": 1})
    again = site.send("POST", "/v1/events", body, JSON)
    assert (again.status, again.json["events"][0]["new"], again.json["events"][0]["seq"]) == (202, False, kept["seq"])


def test_a_batch_is_stored_whole_or_not_at_all(site: Site) -> None:
    before = site.stored()
    batch = [json.loads(event()) for _ in range(5)]
    answer = site.send("POST", "/v1/events", json.dumps(batch).encode(), BATCH)
    assert [one["id"] for one in answer.json["events"]] == [one["id"] for one in batch]
    assert site.stored() == before + 5
    assert site.send("POST", "/v1/events", b"[]", BATCH).json == {"events": []}
    bad = [json.loads(event()), {**EVENT, "id": 5}]
    answer = site.send("POST", "/v1/events", json.dumps(bad).encode(), BATCH)
    assert "events[1]" in answer.json["errors"][0]["detail"]
    refused_alone(site, before + 5, answer, 400, "event.malformed", "events")
    answer = site.send("POST", "/v1/events", b"[" + b"{}," * 1000 + b"{}]", BATCH)
    refused_alone(site, before + 5, answer, 400, "event.malformed", "events")


def test_a_binary_event(site: Site) -> None:
    headers = AUTHORISED | {"ce-specversion": "1.0", "ce-id": "b1", "ce-source": "test", "ce-type": "t"}
    answer = site.send("POST", "/v1/events", b'{"b": 2}', headers | {"content-type": "application/json"})
    assert answer.status == 202
    with site.database.read() as conn:
        assert rows.get(conn, answer.json["events"][0]["seq"]).data == {"b": 2}


@pytest.mark.parametrize("origin", ["eventgrid.azure.net", "emitter.example.com:8443"])
def test_a_sender_may_ask_first(site: Site, origin: str) -> None:
    """The handshake of CloudEvents' web hooks."""
    asked = {"webhook-request-origin": origin, "webhook-request-rate": "120"}
    answer = site.send("OPTIONS", "/v1/events", headers=asked)
    assert (answer.status, answer.headers["webhook-allowed-origin"]) == (200, origin)
    assert int(answer.headers["webhook-allowed-rate"]) > 0 and "POST" in answer.headers["allow"]


@pytest.mark.parametrize("headers", [{}, {"webhook-request-origin": "a b"}, {"origin": "https://web.example"}])
def test_who_does_not_ask_as_a_sender_is_granted_nothing(site: Site, headers: dict[str, str]) -> None:
    answer = site.send("OPTIONS", "/v1/events", headers=headers)
    assert answer.status == 200 and "POST" in answer.headers["allow"]
    assert not [name for name in answer.headers if name.startswith(("webhook-", "access-control-"))]


def test_null_attributes_are_unset(site: Site) -> None:
    body = event(id="nulls", subject=None, time=None, datacontenttype=None)
    for headers, sent in ((JSON, body), (BATCH, b"[" + body + b"]")):
        answer = site.send("POST", "/v1/events", sent, headers)
        assert answer.status == 202, answer.body
    with site.database.read() as conn:
        stored = rows.get(conn, answer.json["events"][0]["seq"])
    assert (stored.subject, stored.time, stored.data) == (None, None, {"a": 1})


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "event.malformed"),
        (b"", JSON, 400, "event.malformed"),
        (b"[]", JSON, 400, "event.malformed"),
        (b"{}", BATCH, 400, "event.malformed"),
        (event(id="1", source="imageflow"), JSON, 400, "event.malformed"),
        (event(id="1", source="imageflow:schedule"), JSON, 400, "event.malformed"),
        (event(id="a\u0000b"), JSON, 400, "event.malformed"),
        (event(id="1", type="t" * 256), JSON, 400, "event.malformed"),
        (b"[" * 60000, JSON, 400, "event.malformed"),
        (b'{"specversion":"1.0","id":"\\ud800","source":"x","type":"t"}', JSON, 400, "event.malformed"),
        (event(id="1"), AUTHORISED | {"content-type": "application/json"}, 415, "event.content-type"),
        (event(id="1"), AUTHORISED | {"content-type": "application/cloudevents+avro"}, 415, "event.content-type"),
        (event(id="1"), AUTHORISED, 415, "event.content-type"),
        (b"x" * 66000, JSON, 413, "request.too-large"),
    ],
)
def test_rubbish_is_refused(site: Site, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    site.refused()
    before = site.stored()
    refused_alone(site, before, site.send("POST", "/v1/events", body, headers), status, code, "events")


WRONG: list[dict[str, str]] = [
    {},
    {"authorization": "Bearer x"},
    {"authorization": f"Basic {TOKEN}"},
    {"authorization": "Bearer"},
    {"host": "rebound.example:8780"},
    {"x-forwarded-for": "192.0.2.7"},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_only_who_has_the_token_may_post(site: Site, wrong: dict[str, str]) -> None:
    """On this machine, too: any of its users, and a proxy on it, come from there."""
    site.refused()
    answer = site.send("POST", "/v1/events", event(), {"content-type": JSON["content-type"]} | wrong)
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "imageflow event token" in answer.json["errors"][0]["detail"]
    refused_alone(site, site.stored(), answer, 401, "event.unauthorized", "events")


def test_the_token_may_be_in_the_query_as_web_hooks_of_cloudevents_have_it(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    kind = {"content-type": JSON["content-type"]}
    with caplog.at_level(logging.DEBUG):
        assert site.send("POST", f"/v1/events?access_token={TOKEN}", event(), kind).status == 202
        assert site.send("POST", "/v1/events?access_token=x", event(), kind).status == 401
    assert TOKEN not in caplog.text


def test_without_a_configured_token_there_is_one_in_the_state_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(tmp_path / "state", events={"token": None})
    kind = {"content-type": JSON["content-type"]}
    with caplog.at_level(logging.INFO), serving(config) as site:
        file = config.state_dir / "events-token"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        own = file.read_text().strip()
        assert len(own) > 30 and own == door.token(config)
        for given in (None, "", "None", "x"):
            headers = kind | ({"authorization": f"Bearer {given}"} if given is not None else {})
            assert site.send("POST", "/v1/events", event(), headers).status == 401
        assert site.send("POST", "/v1/events", event(), kind | {"authorization": f"Bearer {own}"}).status == 202
    assert str(file) in caplog.text and own not in caplog.text
    with serving(config) as site:
        assert site.send("POST", "/v1/events", event(), kind | {"authorization": f"Bearer {own}"}).status == 202


def test_a_thousand_duplicates_from_eight_threads_are_one_event(site: Site) -> None:
    before, body = site.stored(), event()
    with ThreadPoolExecutor(8) as pool:
        answers = [
            a for many in pool.map(lambda _: _repeated(site, "/v1/events", body, JSON, 125), range(8)) for a in many
        ]
    assert {answer.status for answer in answers} == {202}
    assert Counter(answer.json["events"][0]["new"] for answer in answers) == {True: 1, False: 999}
    assert len({answer.json["events"][0]["seq"] for answer in answers}) == 1
    assert site.stored() == before + 1


def test_a_thousand_deliveries_of_a_webhook_from_eight_threads_are_an_event_for_each_id(site: Site) -> None:
    site.refused()
    sender, before = SENDERS["github"], site.stored()
    body = raw(sender.push())
    same, other = sender.headers(body, "same"), [sender.headers(body, f"other-{n}") for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        many = pool.map(
            lambda n: _repeated(site, "/v1/webhooks/github", body, same if n % 2 else other[n], 125), range(8)
        )
        answers = [answer for one in many for answer in one]
    assert {answer.status for answer in answers} == {202}
    deliveries = {"same"} | {f"other-{n}" for n in range(0, 8, 2)}
    new = Counter(answer.json["events"][0]["id"] for answer in answers if answer.json["events"][0]["new"])
    assert new == dict.fromkeys(deliveries, 1), "each delivery once"
    assert (site.stored(), site.refused()) == (before + 5, {})


def test_duplicates_on_every_database(tmp_path: Path, database_url: str) -> None:
    config = dataclasses.replace(configured(tmp_path), database=database_url)
    with serving(config) as site, ThreadPoolExecutor(8) as pool:
        sender, body = SENDERS["github"], event()
        hook = raw(sender.push())
        many = pool.map(
            lambda n: _repeated(site, "/v1/webhooks/github", hook, sender.headers(hook, f"id-{n % 3}"), 15), range(8)
        )
        hooks = Counter((answer.status, answer.json["events"][0]["new"]) for one in many for answer in one)
        many = pool.map(lambda _: _repeated(site, "/v1/events", body, JSON, 15), range(8))
        posted = Counter(answer.json["events"][0]["new"] for one in many for answer in one)
        assert (hooks, posted) == ({(202, True): 3, (202, False): 117}, {True: 1, False: 119})
        assert site.stored() == 4


def _repeated(site: Site, path: str, body: bytes, headers: dict[str, str], times: int) -> list[Answer]:
    with site.client() as send:
        return [send("POST", path, body, headers) for _ in range(times)]
