"""The watcher with a real web server: files are asked about and not fetched, whatever the server says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from imageflow.errors import Unavailable
from imageflow.host.addresses import Policy
from imageflow.listeners import looking
from tests.integration.watch.watched_site import BOOT, built, look, sha
from tests.small.polled import Site, images

LOOPBACK = Policy(["127.0.0.1"], "[downloads] allow")


@dataclass
class Web:
    """What a web server says about the one file that it has."""

    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"', "Content-Length": "1000000000"})
    code: int = 200
    head: bool = True
    seen: list[str] = field(default_factory=list)
    sent: int = 0
    url: str = ""
    body: bytes = b""


@pytest.fixture
def web() -> Iterator[Web]:
    told = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            told.seen.append("HEAD")
            self.answer(told.code if told.head else 405)

        def do_GET(self) -> None:
            told.seen.append("GET")
            self.answer(told.code)
            if told.body:
                self.wfile.write(told.body)
                return
            try:
                while not told.head:
                    self.wfile.write(b"x" * 65536)
                    told.sent += 65536
            except OSError:
                pass

        def answer(self, code: int) -> None:
            if self.path.endswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/disk.qcow2")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(code)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/disk.qcow2"
    yield told
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url_is_asked_about_and_not_fetched(site: Site, web: Web) -> None:
    site.register(images(web=f"{{watch: '{web.url}?token=1'}}"))
    look(site)
    look(site)
    assert site.events() == []
    web.headers["ETag"] = '"two"'
    look(site)
    [event] = site.events()
    assert event.data["input"] == f"{web.url}?token=1"
    assert site.asked_for(event) == ["web"]
    assert '\\"one\\"' in event.data["before"] and '\\"two\\"' in event.data["after"]
    assert set(web.seen) == {"HEAD"}


def test_a_server_without_head_sends_next_to_nothing(site: Site, web: Web) -> None:
    web.head = False
    site.register(images(web=f"{{watch: '{web.url}'}}"))
    assert look(site) == []
    web.headers = {"Last-Modified": "Tue, 05 May 2026 00:00:00 GMT"}
    look(site)
    assert len(site.events()) == 1
    assert web.seen == ["HEAD", "GET"] * 2
    assert web.sent < 16 << 20


def test_mirrors_with_etags_of_their_own_are_the_same(site: Site, web: Web) -> None:
    web.headers = {"Last-Modified": "Tue, 05 May 2026 00:00:00 GMT", "Content-Length": "5", "ETag": '"a"'}
    site.register(images(web=f"{{watch: '{web.url}'}}"))
    for tag in ("a", "b", "a", "c"):
        web.headers["ETag"] = f'"{tag}"'
        look(site)
    assert site.events() == []
    web.headers["Last-Modified"] = "Wed, 06 May 2026 00:00:00 GMT"
    web.headers["ETag"] = '"d"'
    look(site)
    assert len(site.events()) == 1


@pytest.mark.parametrize("code", [404, 401, 500, 429])
def test_a_server_that_says_no(site: Site, web: Web, code: int) -> None:
    site.register(images(web=f"{{watch: '{web.url}?token=secret'}}"))
    look(site)
    web.code = code
    web.headers["ETag"] = '"error page"'
    assert look(site) == [f"{web.url} answered {code}"]
    assert site.events() == []


def test_a_server_that_says_nothing_of_use_or_is_not_there(site: Site, web: Web) -> None:
    web.headers = {}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        site.register(images(web=f"{{watch: '{web.url}'}}", db=f"{{watch: '{url}'}}"))
        troubles = look(site)
    assert sorted("does not answer" in trouble for trouble in troubles) == [False, True]
    assert any("its changes can't be seen" in trouble for trouble in troubles)


def test_a_server_that_answers_letter_by_letter_is_given_up(web: Web) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def drip() -> None:
            sock, _ = server.accept()
            with sock:
                while not stop.wait(0.05):
                    sock.sendall(b"H")

        thread = threading.Thread(target=drip)
        thread.start()
        with pytest.raises(Unavailable, match="does not finish its answer"):
            looking.url(f"http://127.0.0.1:{server.getsockname()[1]}/x?token=secret", LOOPBACK, patience=0.5)
        stop.set()
        thread.join()


def test_redirects_are_followed(site: Site, web: Web) -> None:
    site.register(images(web=f"{{watch: '{web.url}/moved'}}"))
    assert look(site) == []
    web.headers["ETag"] = '"two"'
    look(site)
    assert len(site.events()) == 1


def test_a_base_with_published_checksums(site: Site, web: Web) -> None:
    old, new = sha(b"old"), sha(b"new")
    web.headers = {}
    web.body = f"{old}  disk.qcow2\n".encode()
    sums = web.url.replace("disk.qcow2", "SHA256SUMS")
    site.register(BOOT.format(base=f"{{url: '{web.url}', checksums: '{sums}'}}"))
    built(site, {"base:url": old})
    assert look(site) == []
    assert site.events() == []
    web.body = f"{new}  disk.qcow2\n".encode()
    look(site)
    [event] = site.events()
    assert (event.data["input"], event.data["before"], event.data["after"]) == ("base", old, new)
    assert site.asked_for(event) == ["web"]
