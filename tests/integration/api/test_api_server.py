"""The HTTP listener's beginning and end: where it listens, what it is configured with, how it stops and is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from imageflow.api.server import HttpListener, address
from imageflow.background.flag import Flag
from imageflow.errors import ConfigError
from imageflow.events.inbox import SqlInbox
from imageflow.listeners import Surroundings
from imageflow.persistence.database import Database
from imageflow.persistence.tables import events
from imageflow.registry.watched import SqlWatched
from tests.integration.api.api_site import HEAD, event
from tests.servers.http_listener import JSON, Site, configured, serving

ROOT = Path(__file__).parents[3]


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
    argv = [sys.executable, "-m", "tests.servers.http_listener", str(tmp_path)]
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


def test_the_listener_is_the_entry_point() -> None:
    from imageflow.config import drivers

    assert drivers.load("listener", "imageflow.listeners", "http", "[listeners] enabled") is HttpListener
    assert SqlInbox.receive
