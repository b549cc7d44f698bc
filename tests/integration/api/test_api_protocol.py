"""HTTP itself, at a real server: the form of every answer, and what is too large, too slow or no HTTP at all."""

from __future__ import annotations

import logging
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.api.api_site import HEAD
from tests.servers.http_listener import Site


def test_every_answer_has_an_id_and_no_answer_is_a_page(site: Site) -> None:
    for method, path, status in (
        ("GET", "/healthz", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 404),
        ("GET", "/", 200),
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
            assert answer.headers["allow"] in ("OPTIONS, POST", "POST", "GET")
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
