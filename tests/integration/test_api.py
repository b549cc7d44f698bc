"""The HTTP interface by a real server on a real database: what it keeps, what it refuses, what it survives."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
import schemathesis
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from imageflow.api.server import HttpListener, address
from imageflow.errors import ConfigError
from imageflow.inbox import SqlInbox
from imageflow.listeners import Surroundings
from imageflow.persistence import events as rows
from imageflow.persistence.database import Database
from imageflow.persistence.tables import events
from imageflow.registry import SqlWatched
from imageflow.signals import Flag
from tests.http_server import JSON, TOKEN, Answer, Site, configured, serving
from tests.webhooks import PLAIN_GITLAB, SECRETS, SENDERS, Sender, github_push, raw, standard_headers

ROOT = Path(__file__).parents[2]
EVENT = {"specversion": "1.0", "source": "test", "type": "t", "data": {"a": 1}}
BATCH = {"content-type": "application/cloudevents-batch+json"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    config = configured(tmp_path_factory.mktemp("api"), api={"max_body": 64, "timeout": 2.0})
    with serving(config) as site:
        yield site


def event(**changes: Any) -> bytes:
    return json.dumps({**EVENT, "id": str(uuid.uuid4()), **changes}).encode()


def every_sender(function: Any) -> Any:
    return pytest.mark.parametrize("sender", SENDERS.values(), ids=lambda sender: sender.name)(function)


def refused_alone(site: Site, before: int, answer: Answer, status: int, code: str, endpoint: str) -> None:
    """Refused with that status and code, nothing stored, and counted once."""
    assert (answer.status, answer.code) == (status, code), answer.body
    assert site.stored() == before
    assert site.refused() == {(endpoint, code.rpartition(".")[2]): 1}


# CloudEvents


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


# webhooks


@every_sender
def test_a_right_delivery_is_stored_once(site: Site, sender: Sender) -> None:
    site.refused()
    path, body = f"/v1/webhooks/{sender.name}", raw(sender.push())
    headers, before = sender.headers(body), site.stored()
    answer = site.send("POST", path, body, headers)
    assert answer.status == 202, answer.body
    [kept] = answer.json["events"]
    assert (kept["type"], kept["new"]) == ("git.push", True)
    if sender.names_it:
        assert kept["id"] == headers[sender.names_it]
    refused_alone(site, before + 1, site.send("POST", path, body, headers), 400, "webhook.replayed", path[4:])
    if sender.name in ("github", "gitea", "forgejo", "bitbucket"):  # whose signature says nothing of the id
        replay = sender.headers(body)
        refused_alone(site, before + 1, site.send("POST", path, body, replay), 400, "webhook.replayed", path[4:])


@every_sender
def test_a_delivery_that_is_not_signed_right_is_refused(site: Site, sender: Sender) -> None:
    site.refused()
    path, body, before = f"/v1/webhooks/{sender.name}", raw(sender.push()), site.stored()
    right = sender.headers(body)
    without = {name: value for name, value in right.items() if name != sender.signature}
    wrong_secret = "whsec_AAAA" if SECRETS[sender.option].startswith("whsec_") else "another"
    for headers, sent, code in (
        (without, body, "webhook.missing-signature"),
        (sender.headers(body, secret=wrong_secret), body, "webhook.bad-signature"),
        *([(right, body + b" ", "webhook.bad-signature")] if sender.name != "gerrit" else []),
        *([(right, b"{", "webhook.bad-signature")] if sender.name != "gerrit" else []),
    ):
        answer = site.send("POST", path, sent, headers)
        assert SECRETS[sender.option].encode() not in answer.body
        refused_alone(site, before, answer, 401, code, path[4:])
        assert ("www-authenticate" in answer.headers) == (sender.name == "gerrit")


@every_sender
def test_a_delivery_that_is_no_payload_is_refused(site: Site, sender: Sender) -> None:
    site.refused()
    path, before = f"/v1/webhooks/{sender.name}", site.stored()
    for body in (
        b"{",
        b"[]",
        b'"x"',
        b"",
        b"\xff" if sender.name not in ("gitlab", "generic") else b"{}x",
        b"[" * 9999,
    ):
        answer = site.send("POST", path, body, sender.headers(body))
        refused_alone(site, before, answer, 400, "webhook.malformed", path[4:])
    too_large = b"x" * 66000
    answer = site.send("POST", path, too_large, sender.headers(too_large))
    refused_alone(site, before, answer, 413, "request.too-large", path[4:])
    body = raw(sender.push())
    answer = site.send("POST", path, body, sender.headers(body) | {"content-type": "application/xml"})
    refused_alone(site, before, answer, 415, "webhook.content-type", path[4:])


@every_sender
def test_a_delivery_without_an_id_is_refused(site: Site, sender: Sender) -> None:
    if sender.names_it is None or sender.signature == "webhook-signature":
        return  # the body names it; the signature is over it
    site.refused()
    path, body, before = f"/v1/webhooks/{sender.name}", raw(sender.push()), site.stored()
    for change in ({}, {sender.names_it: ""}, {sender.names_it: "x" * 201}):
        headers = {name: value for name, value in sender.headers(body).items() if name != sender.names_it} | change
        refused_alone(site, before, site.send("POST", path, body, headers), 400, "webhook.no-delivery-id", path[4:])


def test_a_stale_delivery_is_refused(site: Site) -> None:
    site.refused()
    for name in ("generic", "gitlab"):
        body = raw(SENDERS[name].push())
        headers = standard_headers(SECRETS[SENDERS[name].option], "old", body, time.time() - 600)
        answer = site.send("POST", f"/v1/webhooks/{name}", body, headers | {"content-type": "application/json"})
        refused_alone(site, site.stored(), answer, 401, "webhook.stale-signature", f"webhooks/{name}")


def test_without_a_secret_an_endpoint_is_closed_and_gitlab_may_send_its_token(tmp_path: Path) -> None:
    closed: dict[str, Any] = dict.fromkeys(SECRETS) | {"gitlab_token": PLAIN_GITLAB}
    with serving(configured(tmp_path, webhooks=closed)) as site:
        for sender in SENDERS.values():
            body, path = raw(sender.push()), f"/v1/webhooks/{sender.name}"
            if sender.name == "gitlab":
                headers = sender.headers(body, secret=PLAIN_GITLAB)
                assert site.send("POST", path, body, headers).status == 202
                refused_alone(site, 1, site.send("POST", path, body, headers), 400, "webhook.replayed", path[4:])
                headers["x-gitlab-token"] += "x"
                refused_alone(site, 1, site.send("POST", path, body, headers), 401, "webhook.bad-signature", path[4:])
                continue
            before = site.stored()
            answer = site.send("POST", path, body, sender.headers(body))
            assert sender.option in answer.json["errors"][0]["detail"]
            refused_alone(site, before, answer, 403, "webhook.closed", path[4:])


def test_a_github_form(site: Site) -> None:
    body = urlencode({"payload": json.dumps(github_push())}).encode()
    sender = dataclasses.replace(SENDERS["github"], content_type="application/x-www-form-urlencoded")
    answer = site.send("POST", "/v1/webhooks/github", body, sender.headers(body))
    assert (answer.status, answer.json["events"][0]["type"]) == (202, "git.push"), answer.body
    site.refused()
    for bad in (b"payload", b"payload=%7B", b"payload=%ff", b"a=b", b"payload=1&payload=2", b"\xff=1", b"a=1&" * 99):
        answer = site.send("POST", "/v1/webhooks/github", bad, sender.headers(bad))
        refused_alone(site, site.stored(), answer, 400, "webhook.malformed", "webhooks/github")


@pytest.mark.parametrize("header", ["authorization: Bearer", "x-gerrit-token:"])
def test_gerrits_token_in_other_headers(site: Site, header: str) -> None:
    name, _, scheme = header.partition(":")
    body = raw(SENDERS["gerrit"].push())
    value = f"{scheme} {SECRETS['gerrit_token']}".strip()
    answer = site.send("POST", "/v1/webhooks/gerrit", body, {name: value, "content-type": "text/plain; charset=UTF-8"})
    assert answer.status == 202, answer.body


def test_gerrits_client_asks_first_and_then_sends_the_password_of_its_url(site: Site) -> None:
    url = site.url.replace("://", f"://imageflow:{SECRETS['gerrit_token']}@")
    body = raw(SENDERS["gerrit"].push())
    done = requests.post(
        f"{url}/v1/webhooks/gerrit", data=body, headers={"content-type": "application/json"}, timeout=30
    )
    assert done.status_code == 202


# the protocol below


def test_every_answer_has_an_id_and_no_answer_is_a_page(site: Site) -> None:
    for method, path, status in (
        ("GET", "/healthz", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 404),
        ("GET", "/", 404),
        ("GET", "/v1/events", 405),
        ("DELETE", "/v1/webhooks/github", 405),
        ("POST", "/v1/webhooks/sourceforge", 404),
        ("POST", "/v1/events/", 404),
        ("GET", "/v1/%00/../%ff", 404),
        ("BREW", "/healthz", 405),
    ):
        answer = site.send(method, path)
        assert answer.status == status, path
        assert answer.headers["x-openstack-request-id"].startswith("req-")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        if status == 405:
            assert answer.headers["allow"] in ("POST", "GET")
        if status >= 400:
            assert answer.code.startswith("request.")


def _conversation(site: Site, *pieces: bytes, seconds: float = 10.0) -> bytes:
    """Everything that comes back until the server closes; fails when it does not in time."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=seconds) as sock:
        try:
            for piece in pieces:
                sock.sendall(piece)
        except OSError:
            pass
        got = b""
        try:
            while chunk := sock.recv(65536):
                got += chunk
        except ConnectionError:
            pass
        return got


HEAD = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/cloudevents+json\r\n"


def test_a_body_without_length_is_cut_off_where_it_is_too_large(site: Site) -> None:
    site.refused()
    before = site.stored()
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    got = _conversation(site, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 64)
    assert got.startswith(b"HTTP/1.1 413") and b"request.too-large" in got
    assert site.stored() == before and site.refused() == {("events", "too-large"): 1}


@pytest.mark.parametrize("length", [b"70000", b"9" * 18, b"9" * 4000])
def test_a_body_that_says_it_is_too_large_is_not_read(site: Site, length: bytes) -> None:
    got = _conversation(site, HEAD + b"Content-Length: " + length + b"\r\n\r\n")
    assert b"413" in got.split(b"\r\n")[0] or b"400" in got.split(b"\r\n")[0]


@pytest.mark.parametrize(
    "pieces",
    [
        (b"POST",),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /h"),
        (HEAD + b"Content-Length: 10\r\n\r\n", b"{"),
        (b"",),
    ],
)
def test_who_sends_slowly_is_left(site: Site, pieces: tuple[bytes, ...]) -> None:
    """The site gives two seconds to a request."""
    begun = time.monotonic()
    got = _conversation(site, *pieces)
    assert time.monotonic() - begun < 8
    if b"Content-Length" in pieces[0]:
        assert got.startswith(b"HTTP/1.1 408") and b"request.slow" in got


def test_slow_drops_do_not_win_time(site: Site) -> None:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as sock, pytest.raises(OSError):
        sock.sendall(b"GET /healthz HTTP/1.1\r\n")
        while time.monotonic() - begun < 8:
            sock.sendall(b"X-A: b\r\n")
            time.sleep(0.1)  # the slowness is what is tested
    assert time.monotonic() - begun < 6


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 50 + b"\x00\x01\x02 rubbish\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: [::1\r\nContent-Length: 0\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_what_is_no_http_does_no_harm(site: Site, rubbish: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        got = _conversation(site, rubbish)
    assert b" 500 " not in got
    assert not [record for record in caplog.records if record.exc_info], caplog.text
    assert site.send("GET", "/healthz").json == {"status": "ok"}


def test_rubbish_at_random_does_no_harm(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(4)
    whole = HEAD + b"Content-Length: 2\r\n\r\n{}" + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with caplog.at_level(logging.ERROR), ThreadPoolExecutor(8) as pool:
        pieces = []
        for _ in range(80):
            changed = bytearray(whole)
            for _ in range(dice.randint(1, 6)):
                changed[dice.randrange(len(changed))] = dice.randrange(256)
            cut = dice.randrange(len(changed))
            pieces.append((bytes(changed[:cut]), bytes(changed[cut:])))
        answers = list(pool.map(lambda two: _conversation(site, *two), pieces))
    assert not [answer for answer in answers if b"HTTP/1.1 5" in answer]
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def test_many_large_bodies_at_once_are_told_to_come_later(site: Site) -> None:
    """The site takes bodies of 64 KiB, and holds sixteen of them; who keeps them there is left after two seconds."""
    site.refused()
    socks = [socket.create_connection(("127.0.0.1", site.port), timeout=10) for _ in range(20)]
    try:
        for sock in socks:
            sock.sendall(HEAD + b"Content-Length: 65536\r\n\r\n" + b" " * 65000)
        answers = [sock.recv(65536).split(b" ")[1] for sock in socks]
    finally:
        for sock in socks:
            sock.close()
    assert set(answers) == {b"408", b"503"} and answers.count(b"503") >= 3
    assert site.send("POST", "/v1/events", event(), JSON).status == 202


def test_too_many_requests_are_told_to_come_later(tmp_path: Path) -> None:
    with serving(configured(tmp_path, api={"rate": "3/minute"})) as site:
        answers = [site.send("POST", "/v1/events", event(), JSON) for _ in range(5)]
        assert [answer.status for answer in answers] == [202, 202, 202, 429, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert answers[-1].code == "request.rate"
        assert site.send("GET", "/healthz").status == 200
        assert (site.stored(), site.refused()) == (3, {("events", "rate"): 2})


def test_an_inbox_that_is_away_keeps_the_event_at_the_sender(tmp_path: Path) -> None:
    with serving(configured(tmp_path)) as site:
        path = Path(site.config.database.removeprefix("sqlite:///"))
        assert site.send("POST", "/v1/events", event(), JSON).status == 202
        with site.database.begin() as conn:
            conn.execute(sa.text("alter table events rename to elsewhere"))
        answer = site.send("POST", "/v1/events", body := event(), JSON)
        assert answer.status in (500, 503) and b"elsewhere" not in answer.body and b"SELECT" not in answer.body.upper()
        with site.database.begin() as conn:
            conn.execute(sa.text("alter table elsewhere rename to events"))
        assert path.exists()
        assert site.send("POST", "/v1/events", body, JSON).json["events"][0]["new"] is True


def test_a_locked_database_is_503_with_retry_after(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with serving(config) as site, Database(config.database) as other:
        sender = SENDERS["github"]
        hook = raw(sender.push())
        headers = sender.headers(hook)
        with ThreadPoolExecutor(2) as pool, other.begin():
            first = pool.submit(site.send, "POST", "/v1/events", body := event(), JSON)
            second = pool.submit(site.send, "POST", "/v1/webhooks/github", hook, headers)
            answers = [first.result(), second.result()]
        for answer in answers:
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "unavailable", "5")
        assert site.refused() == {}
        assert site.send("POST", "/v1/events", body, JSON).status == 202
        assert site.send("POST", "/v1/webhooks/github", hook, headers).status in (
            202,
            400,
        )  # 400: it was late, not lost
        assert site.stored() == 2


def test_nothing_secret_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for sender in SENDERS.values():
            body = raw(sender.push())
            headers = sender.headers(body)
            site.send("POST", f"/v1/webhooks/{sender.name}?token=query-secret", body, headers)
            site.send("POST", f"/v1/webhooks/{sender.name}", body + b" ", headers)
            assert headers[sender.signature] not in caplog.text
        site.send("POST", "/v1/events", event(), JSON | {"authorization": "Bearer a-secret"})
    assert "req-" in caplog.text and "/v1/webhooks/github" in caplog.text
    for secret in [*SECRETS.values(), "a-secret", "query-secret"]:
        assert secret not in caplog.text


# starting and ending


@pytest.mark.parametrize(
    "listen",
    ["", "x", "127.0.0.1", "127.0.0.1:", ":80", "127.0.0.1:65536", "127.0.0.1:-1", "::1:80", "[127:80", "a:b", "a:٣"],
)
def test_an_address_that_is_none_is_named(listen: str) -> None:
    with pytest.raises(ConfigError) as refused:
        address(listen)
    assert "[api] listen" in str(refused.value) and "imageflow serve --listen HOST:PORT" in str(refused.value)


def test_an_address_that_is_taken_or_not_ours_is_named(site: Site, tmp_path: Path) -> None:
    for listen in (f"127.0.0.1:{site.port}", "192.0.2.1:0", "no-such-host.invalid:80"):
        config = configured(tmp_path, api={"listen": listen})
        with pytest.raises(ConfigError) as refused:
            HttpListener(Surroundings(config, site.inbox, SqlWatched(site.database))).run(Flag())
        assert listen in str(refused.value) and "--listen HOST:PORT" in str(refused.value)


@pytest.mark.parametrize(
    ("group", "name", "value", "words"),
    [
        ("api", "rate", "often", "[api] rate"),
        ("webhooks", "generic_secret", "whsec_*", "[webhooks] generic_secret"),
        ("webhooks", "gitlab_token", "whsec_", "[webhooks] gitlab_token"),
    ],
)
def test_an_option_that_can_not_be_meant_is_named(
    site: Site, tmp_path: Path, group: str, name: str, value: str, words: str
) -> None:
    config = configured(tmp_path, **{group: {name: value}})
    with pytest.raises(ConfigError) as refused:
        HttpListener(Surroundings(config, site.inbox, SqlWatched(site.database))).run(Flag())
    assert words in str(refused.value) and value not in words


def test_ipv6(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        socket.socket(socket.AF_INET6).bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 loopback")
    with serving(configured(tmp_path, api={"listen": "[::1]:0"})) as site:
        assert site.url.startswith("http://[::1]:")
        assert site.send("POST", "/v1/events", event(), JSON).status == 202


def test_it_ends_with_the_requests_that_it_has(tmp_path: Path) -> None:
    """A request whose body comes while we stop is answered, and nothing listens after."""
    with serving(configured(tmp_path)) as site:
        body = event()
        sock = socket.create_connection(("127.0.0.1", site.port), timeout=30)
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        assert site.send("GET", "/healthz").status == 200  # by now it has the head
        threading.Timer(0.5, sock.sendall, (body,)).start()
    with sock:
        got = sock.recv(65536)
    assert got.startswith(b"HTTP/1.1 202")
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", site.port), timeout=5)


def test_only_the_listener_pays_for_the_web() -> None:
    program = "import sys, imageflow.api.server, imageflow.cli.app; print([m for m in ('fastapi', 'uvicorn') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("round_", range(3))
def test_what_was_answered_is_there_after_kill_9(tmp_path: Path, round_: int) -> None:
    """Four senders post until the server is killed: every event that was answered is stored, and each once."""
    argv = [sys.executable, "-m", "tests.http_server", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout
        url = child.stdout.readline().strip()
        site = Site(url, configured(tmp_path), Database(configured(tmp_path).database), None)  # type: ignore[arg-type]
        answered: list[str] = []
        enough = threading.Event()

        def post(_: int) -> None:
            try:
                with site.client() as send:
                    while True:
                        body = event()
                        if send("POST", "/v1/events", body, JSON).status == 202:
                            answered.append(json.loads(body)["id"])
                        if len(answered) >= 40 + 10 * round_:
                            enough.set()
            except (OSError, ValueError):
                pass
            except Exception as error:
                assert "http.client" in type(error).__module__, error

        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(post, n) for n in range(4)]
            assert enough.wait(60)
            os.kill(child.pid, signal.SIGKILL)
            for one in done:
                one.result()
    with site.database, site.database.read() as conn:
        stored = Counter(conn.execute(sa.select(events.c.id)).scalars())
    assert set(answered) <= set(stored)
    assert set(stored.values()) == {1}


# the OpenAPI document


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With the limits that it has by default: what is too much by the document fits into a body."""
    with serving(configured(tmp_path_factory.mktemp("roomy"))) as site:
        yield site


OPERATIONS = ["/healthz", "/v1/events", *(f"/v1/webhooks/{name}" for name in SENDERS)]
PARTS = ("method", "url", "headers", "files", "data", "params", "auth", "cookies", "json")


@pytest.mark.parametrize("path", OPERATIONS)
def test_the_document_is_the_truth(path: str, roomy: Site) -> None:
    """Whatever fits the document, or does not, is answered as it says; never 500."""
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{roomy.url}/openapi.json")
    [operation] = [one.ok() for one in schema.include(path=path).get_all_operations()]

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        case=st.one_of(operation.as_strategy(GenerationMode.POSITIVE), operation.as_strategy(GenerationMode.NEGATIVE))
    )
    def fuzz(case: Any) -> None:
        case.call_and_validate(checks=CHECKS.get_all())
        sender = SENDERS.get(path.rpartition("/")[2])
        if sender is not None:
            _signed(roomy, sender, case)

    fuzz()


def _signed(site: Site, sender: Sender, case: Any) -> None:
    """The same request, by somebody who knows the secret."""
    parts = {name: part for name, part in case.as_transport_kwargs(base_url=site.url).items() if name in PARTS}
    request = requests.Request(**parts).prepare()
    body = request.body if isinstance(request.body, bytes) else (request.body or "").encode()
    try:
        request.headers.update(sender.sign(SECRETS[sender.option], str(uuid.uuid4()), sender.event, body))
    except UnicodeDecodeError:
        return
    with requests.Session() as session:
        answer = session.send(request, timeout=30)
    assert answer.status_code in (202, 400, 405, 413, 415), answer.text
    assert "x-openstack-request-id" in answer.headers


RESPONSES = {"202", "400", "401", "403", "408", "413", "415", "429", "500", "503"}


def test_the_document_declares_everything(site: Site) -> None:
    document = site.send("GET", "/openapi.json").json
    assert document["info"]["title"] == "imageflow" and document["info"]["version"]
    operations = {
        (path, method): what for path, methods in document["paths"].items() for method, what in methods.items()
    }
    assert {path for path, _ in operations} == {"/healthz", "/v1/events"} | {f"/v1/webhooks/{name}" for name in SENDERS}
    for (path, method), operation in operations.items():
        assert operation["operationId"] and operation["tags"] and operation["summary"]
        if method == "post":
            assert set(operation["responses"]) == RESPONSES, path
            assert operation["requestBody"]["required"]


def test_the_listener_is_the_entry_point() -> None:
    from imageflow import drivers

    assert drivers.load("listener", "imageflow.listeners", "http", "[listeners] enabled") is HttpListener
    assert SqlInbox.receive
