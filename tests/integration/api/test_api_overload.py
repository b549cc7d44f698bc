"""What the HTTP interface can't take now: the sender is told to come later, and loses nothing."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow.persistence.database import Database
from tests.integration.api.api_site import HEAD, event
from tests.samples.webhook_senders import SENDERS, raw
from tests.servers.http_listener import JSON, Site, configured, serving


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
        assert site.send("POST", "/v1/webhooks/github", hook, headers).status == 202
        assert site.stored() == 2


def _from(address: str, port: int) -> socket.socket:
    """A connection of another client: all of 127.0.0.0/8 is this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(address, 0))


def _sent(address: str, port: int, body: bytes) -> bytes:
    """The first line of the answer to an event from this client."""
    with _from(address, port) as sock:
        sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return sock.recv(65536).partition(b"\r\n")[0]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Site]:
    """A site that gives half a minute to a body of 64 KiB."""
    with serving(configured(tmp_path, api={"max_body": 64, "timeout": 30.0})) as site:
        yield site


def test_bodies_that_are_held_back_take_no_place_of_another_client(patient: Site) -> None:
    socks = [_from("127.0.0.1", patient.port) for _ in range(17)]
    try:
        for sock in socks:
            sock.sendall(HEAD + b"Content-Length: 65536\r\n\r\n" + b" " * 65535)
        for body in (event(), event(data={"a": "x" * 60000}), event()):
            assert _sent("127.0.0.2", patient.port, body) == b"HTTP/1.1 202 Accepted"
        answers = [sock.recv(65536).split(b" ")[1] for sock in socks]
    finally:
        for sock in socks:
            sock.close()
    assert set(answers) == {b"503", b"408"}, "the oldest made room, the others stood still"


def test_a_client_that_holds_bodies_back_loses_the_oldest_of_its_own(patient: Site) -> None:
    """So that behind a proxy, too, who sends at once is answered."""
    socks = [_from("127.0.0.1", patient.port) for _ in range(17)]
    try:
        for sock in socks:
            sock.sendall(HEAD + b"Content-Length: 65536\r\n\r\n" + b" " * 65535)
        assert _sent("127.0.0.1", patient.port, event(data={"a": "x" * 60000})) == b"HTTP/1.1 202 Accepted"
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("every", [0.2, 30.0])
def test_a_body_that_drips_or_stands_still_is_left_soon(patient: Site, every: float) -> None:
    begun = time.monotonic()
    with _from("127.0.0.1", patient.port) as sock:
        sock.sendall(HEAD + b"Content-Length: 65536\r\n\r\n ")
        sock.settimeout(every)
        got = b""
        while not got and time.monotonic() - begun < 20:
            try:
                got = sock.recv(65536)
            except TimeoutError:
                sock.sendall(b" ")
    assert got.startswith(b"HTTP/1.1 408") and time.monotonic() - begun < 12


def test_connections_of_one_client_shut_out_no_other(patient: Site) -> None:
    socks = []
    try:
        for _ in range(520):
            socks.append(sock := _from("127.0.0.1", patient.port))
            sock.sendall(b"P")
        assert _sent("127.0.0.2", patient.port, event()) == b"HTTP/1.1 202 Accepted"
    finally:
        for sock in socks:
            sock.close()


def test_behind_a_trusted_proxy_each_client_has_its_own_rate(tmp_path: Path) -> None:
    with serving(
        configured(
            tmp_path,
            api={"rate": "3/minute", "trusted_proxies": ("127.0.0.1", "10.0.0.0/8")},
        )
    ) as site:

        def statuses(told: str) -> list[int]:
            headers = JSON | {"x-forwarded-for": told}
            return [site.send("POST", "/v1/events", event(), headers).status for _ in range(4)]

        assert statuses("192.0.2.1") == [202, 202, 202, 429]
        assert statuses("192.0.2.2, 10.1.2.3") == [202, 202, 202, 429]
        assert statuses("192.0.2.9, 192.0.2.1") == [429] * 4, "what a client says itself is not believed"


def test_a_proxy_that_is_not_trusted_is_one_client_and_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(configured(tmp_path, api={"rate": "3/minute"})) as site, caplog.at_level(logging.WARNING):
        for number in range(5):
            told = JSON | {"x-forwarded-for": f"192.0.2.{number}"}
            answer = site.send("POST", "/v1/webhooks/github", b"", told)
        assert answer.status == 429
    assert caplog.text.count("trusted_proxies") == 1


def test_requests_for_pages_take_no_turn_of_an_event(tmp_path: Path) -> None:
    with serving(configured(tmp_path, api={"rate": "3/minute"})) as site:
        assert [site.send("GET", "/").status for _ in range(5)] == [200, 200, 200, 429, 429]
        assert site.send("POST", "/v1/events", event(), JSON).status == 202


def test_a_delivery_without_any_signature_is_refused_before_its_body_comes(patient: Site) -> None:
    with _from("127.0.0.1", patient.port) as sock:
        sock.sendall(
            b"POST /v1/webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 65536\r\n\r\n"
        )
        assert sock.recv(65536).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("piece", [b"", b" ", b" " * 65535], ids=["nothing", "little", "all but one"])
def test_senders_that_hang_up_are_one_line_each_and_counted(
    patient: Site, piece: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    signed = (
        b"POST /v1/webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Hub-Signature-256: x\r\n"
    )
    with caplog.at_level(logging.DEBUG, "imageflow"):
        for head in (HEAD, signed) * 5:
            with _from("127.0.0.1", patient.port) as sock:
                sock.sendall(head + b"Content-Length: 65536\r\n\r\n" + piece)
        counted: Counter[tuple[str, str]] = Counter()
        deadline = time.monotonic() + 10
        while counted.total() < 10 and time.monotonic() < deadline:
            counted.update(patient.refused())
    assert counted == {("events", "gone"): 5, ("webhooks/github", "gone"): 5}
    lines = [record for record in caplog.records if "hung up" in record.getMessage()]
    assert len(lines) == 10 and {record.levelname for record in lines} == {"INFO"}
    assert not [record for record in caplog.records if record.exc_info or record.levelno > logging.INFO]


def test_readiness_is_what_a_post_would_find(tmp_path: Path) -> None:
    """The process lives all the time; who asks learns the reason, and no address."""
    config = configured(tmp_path)
    with serving(config) as site, Database(config.database) as other:
        assert (site.send("GET", "/readyz").status, site.send("GET", "/readyz").json) == (200, {"status": "ok"})
        with other.begin():  # nobody else can write
            time.sleep(1.1)
            answer = site.send("GET", "/readyz")
            assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "unavailable", "5")
            assert "the database is too slow" in answer.json["errors"][0]["detail"]
            assert site.send("GET", "/healthz").status == 200
        end = time.monotonic() + 30
        while site.send("GET", "/readyz").status != 200:
            assert time.monotonic() < end
            time.sleep(0.2)


def test_a_stranger_s_path_is_counted_whatever_is_in_it(site: Site) -> None:
    site.refused()
    for path in ("/v1/a%00b", "/v1/%ff%fe", "/%00"):
        assert site.send("POST", path, b"x" * 70000).status in (404, 413)
    assert sum(site.refused().values()) == 3
