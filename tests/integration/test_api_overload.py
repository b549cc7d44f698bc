"""What the HTTP interface can't take now: the sender is told to come later, and loses nothing."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sqlalchemy as sa

from imageflow.persistence.database import Database
from tests.http_server import JSON, Site, configured, serving
from tests.integration.api_site import *  # noqa: F403 - its fixtures
from tests.integration.api_site import HEAD, event
from tests.webhook_senders import SENDERS, raw


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
