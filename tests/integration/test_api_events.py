"""CloudEvents over HTTP, to a real server on a real database: kept before the answer, once, from who may send them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imageflow.persistence import events as rows
from tests.http_server import JSON, TOKEN, Answer, Site, configured, serving
from tests.integration.api_site import *  # noqa: F403 - its fixtures
from tests.integration.api_site import EVENT, event, refused_alone
from tests.webhook_senders import SENDERS, raw

BATCH = {"content-type": "application/cloudevents-batch+json"}


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
    headers = {"ce-specversion": "1.0", "ce-id": "b1", "ce-source": "test", "ce-type": "t"}
    answer = site.send("POST", "/v1/events", b'{"b": 2}', headers | {"content-type": "application/json"})
    assert answer.status == 202
    with site.database.read() as conn:
        assert rows.get(conn, answer.json["events"][0]["seq"]).data == {"b": 2}


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "event.malformed"),
        (b"", JSON, 400, "event.malformed"),
        (b"[]", JSON, 400, "event.malformed"),
        (b"{}", BATCH, 400, "event.malformed"),
        (event(source="imageflow"), JSON, 400, "event.malformed"),
        (event(source="imageflow:schedule"), JSON, 400, "event.malformed"),
        (event(id="a\u0000b"), JSON, 400, "event.malformed"),
        (event(type="t" * 256), JSON, 400, "event.malformed"),
        (b"[" * 60000, JSON, 400, "event.malformed"),
        (b'{"specversion":"1.0","id":"\\ud800","source":"x","type":"t"}', JSON, 400, "event.malformed"),
        (event(), {"content-type": "application/json"}, 415, "event.content-type"),
        (event(), {"content-type": "application/cloudevents+avro"}, 415, "event.content-type"),
        (event(), {}, 415, "event.content-type"),
        (b"x" * 66000, JSON, 413, "request.too-large"),
    ],
)
def test_rubbish_is_refused(site: Site, body: bytes, headers: dict[str, str], status: int, code: str) -> None:
    site.refused()
    before = site.stored()
    refused_alone(site, before, site.send("POST", "/v1/events", body, headers), status, code, "events")


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "192.0.2.7"},
        {"forwarded": "for=192.0.2.7"},
        {"via": "1.1 proxy"},
        {"host": "rebound.example:8780"},
    ],
)
def test_without_a_token_only_this_machine_may_post(site: Site, headers: dict[str, str]) -> None:
    site.refused()
    refused_alone(
        site, site.stored(), site.send("POST", "/v1/events", event(), JSON | headers), 403, "event.forbidden", "events"
    )


def test_with_a_token_only_who_has_it_may_post(tmp_path: Path) -> None:
    with serving(configured(tmp_path, events={"token": TOKEN})) as site:
        for wrong in (
            {},
            {"authorization": "Bearer x"},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": "Bearer"},
        ):
            answer = site.send("POST", "/v1/events", event(), JSON | wrong)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            refused_alone(site, 0, answer, 401, "event.unauthorized", "events")
        right = {"authorization": f"Bearer {TOKEN}", "x-forwarded-for": "192.0.2.7"}
        assert site.send("POST", "/v1/events", event(), JSON | right).status == 202


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


def test_a_thousand_deliveries_of_a_webhook_from_eight_threads_are_one_event(site: Site) -> None:
    site.refused()
    sender, before = SENDERS["github"], site.stored()
    body = raw(sender.push())
    same, other = sender.headers(body, "same"), [sender.headers(body, f"other-{n}") for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        many = pool.map(
            lambda n: _repeated(site, "/v1/webhooks/github", body, same if n % 2 else other[n], 125), range(8)
        )
        answers = [answer for one in many for answer in one]
    assert Counter(answer.status for answer in answers) == {202: 1, 400: 999}
    assert {answer.code for answer in answers if answer.status == 400} == {"webhook.replayed"}
    assert site.stored() == before + 1
    assert site.refused() == {("webhooks/github", "replayed"): 999}


def test_duplicates_on_every_database(tmp_path: Path, database_url: str) -> None:
    config = dataclasses.replace(configured(tmp_path), database=database_url)
    with serving(config) as site, ThreadPoolExecutor(8) as pool:
        sender, body = SENDERS["github"], event()
        hook = raw(sender.push())
        many = pool.map(
            lambda n: _repeated(site, "/v1/webhooks/github", hook, sender.headers(hook, f"id-{n % 3}"), 15), range(8)
        )
        hooks = Counter(answer.status for one in many for answer in one)
        many = pool.map(lambda _: _repeated(site, "/v1/events", body, JSON, 15), range(8))
        posted = Counter(answer.json["events"][0]["new"] for one in many for answer in one)
        assert (hooks, posted) == ({202: 1, 400: 119}, {True: 1, False: 119})
        assert site.stored() == 2


def _repeated(site: Site, path: str, body: bytes, headers: dict[str, str], times: int) -> list[Answer]:
    with site.client() as send:
        return [send("POST", path, body, headers) for _ in range(times)]
