"""The proxy of the chaos tests: it changes nothing but URLs, and its faults are what they are called."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from tests.cloud_faults import KINDS, STATUSES
from tests.cloud_proxy import CloudProxy

MIB = 1 << 20
BROKEN = (OSError, http.client.HTTPException)


@dataclass
class Cloud:
    """Two services that are no cloud: what they were asked, and how much of the data came."""

    urls: dict[str, str]
    done: list[tuple[str, str]] = field(default_factory=list)
    received: list[tuple[int, str]] = field(default_factory=list)  # bytes, "whole" or "cut"
    hosts: set[str] = field(default_factory=set)

    def until_received(self, count: int) -> list[tuple[int, str]]:
        end = time.monotonic() + 10
        while len(self.received) < count:
            assert time.monotonic() < end, self.received
            time.sleep(0.01)
        return self.received


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def log_message(self, *_: object) -> None:
        pass

    def _say(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._say(status, json.dumps(value).encode(), **headers)

    def _read(self) -> bytes:
        """The body's digest; notes how much of it came."""
        digest, size = hashlib.sha256(), 0
        how = "cut"
        with contextlib.suppress(OSError, ValueError):
            if self.headers.get("Transfer-Encoding") == "chunked":
                while length := int(self.rfile.readline(), 16):
                    data = self.rfile.read(length)
                    size += len(data)
                    digest.update(data)
                    assert self.rfile.readline() == b"\r\n" or len(data) < length
                how = "whole" if self.rfile.readline() == b"\r\n" else "cut"
            else:
                left = length = int(self.headers.get("Content-Length", 0))
                while left and (data := self.rfile.read1(min(left, 65536))):
                    left -= len(data)
                    size += len(data)
                    digest.update(data)
                how = "cut" if left else "whole"
        self.cloud.received.append((size, how))
        return digest.hexdigest().encode()

    def do_GET(self) -> None:
        cloud, path = self.cloud, self.path
        cloud.hosts.add(self.headers["Host"])
        cloud.done.append(("GET", path))
        keystone, nova = cloud.urls["keystone"], cloud.urls["nova"]
        if path == "/v3":
            self._json(
                {"version": {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": f"{keystone}/v3/"}]}}
            )
        elif path == "/versions":
            links = [{"href": f"{nova}/v2.1/"}, {"href": nova.replace("127.0.0.1", "localhost")}, {"href": f"{nova}9/"}]
            self._json({"links": links}, 300, Location=f"{nova}/v2.1")
        elif path == "/v2.1/whoami":
            self._json({"token": self.headers["X-Auth-Token"]})
        elif path == "/chunks":
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(1600):
                self.wfile.write(b"10000\r\n" + b"c" * 65536 + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/endless":  # as long as the connection lives
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.end_headers()
            self.wfile.write(b"e" * MIB)
            self.close_connection = True
        elif path == "/bytes":
            self._say(200, b"b" * MIB, "application/octet-stream")
        else:
            self._json({"path": path})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self.path == "/early":  # answers before it has read anything
            self._json({"no": "room"}, 413)
            self._read()
            return
        digest = self._read()
        self.cloud.done.append((self.command, self.path))
        if self.path == "/v3/auth/tokens":
            endpoints = [{"interface": "public", "region": "R", "region_id": "R", "id": "1"}]
            catalog = [
                {
                    "type": kind,
                    "name": name,
                    "id": kind,
                    "endpoints": [endpoints[0] | {"url": self.cloud.urls[name] + path}],
                }
                for kind, name, path in (("identity", "keystone", "/v3"), ("compute", "nova", "/v2.1"))
            ]
            expires = {"expires_at": "2099-01-01T00:00:00.000000Z", "issued_at": "2020-01-01T00:00:00.000000Z"}
            self._json(
                {"token": {"catalog": catalog, "methods": ["password"], **expires}}, 201, X_Subject_Token="t0k3n"
            )
        else:
            self._say(200, digest, "text/plain")

    do_PUT = do_POST

    def do_DELETE(self) -> None:
        self.cloud.done.append(("DELETE", self.path))
        self.send_response(204)
        self.end_headers()


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    found = Cloud({})
    servers = []
    for name in ("keystone", "nova"):
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"cloud": found}))
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # it meets resets, as it should
        found.urls[name] = f"http://127.0.0.1:{server.server_port}"
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield found
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def proxy(cloud: Cloud) -> Iterator[CloudProxy]:
    with CloudProxy(cloud.urls, seed=7) as running:
        yield running


@contextlib.contextmanager
def connected(proxy: CloudProxy, service: str = "nova") -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(proxy.url(service).removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        yield connection


def ask(proxy: CloudProxy, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    """One request to nova on a connection of its own."""
    with connected(proxy) as connection:
        chunked = body is not None and not isinstance(body, bytes)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, answer.read()


def upload(proxy: CloudProxy, data: Any) -> tuple[int, bytes]:
    return ask(proxy, "PUT", "/file", data, Content_Type="application/octet-stream")


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_client_that_knows_the_auth_url_goes_through_it_with_everything(cloud: Cloud, proxy: CloudProxy) -> None:
    auth = v3.Password(proxy.auth_url, username="u", password="p", user_domain_id="default", project_name="p")
    client = session.Session(auth)
    assert client.get_endpoint(service_type="compute") == f"{proxy.url('nova')}/v2.1"
    got = client.get("/whoami", endpoint_filter={"service_type": "compute"})
    assert got.json() == {"token": "t0k3n"}
    assert [(service, method) for service, method, *_ in proxy.seen] == [("keystone", "POST"), ("nova", "GET")]
    assert cloud.hosts <= {url.removeprefix("http://") for url in cloud.urls.values()}
    with CloudProxy.before(client, region=None) as second:
        assert second.auth_url == f"{second.url('keystone')}/v3"
        assert ask(second, "GET", "/x") == (200, b'{"path": "/x"}')


def test_urls_in_documents_and_headers_are_its_own_and_no_others(cloud: Cloud, proxy: CloudProxy) -> None:
    with connected(proxy) as connection:
        connection.request("GET", "/versions")
        answer = connection.getresponse()
        ours = proxy.url("nova")
        assert answer.status == 300 and answer.headers["Location"] == f"{ours}/v2.1"
        links = [link["href"] for link in json.loads(answer.read())["links"]]
        assert links == [f"{ours}/v2.1/", ours, f"{cloud.urls['nova']}9/"]
        connection.request("GET", "/again")  # on the same connection
        assert connection.getresponse().read() == b'{"path": "/again"}'


def test_bodies_of_all_kinds_pass_unchanged_and_are_not_held(proxy: CloudProxy, cloud: Cloud) -> None:
    before = memory()

    def chunks() -> Iterator[bytes]:
        for number in range(1000):
            yield bytes([number % 251]) * 100_003

    digest = hashlib.sha256()
    for piece in chunks():
        digest.update(piece)
    assert upload(proxy, chunks()) == (200, digest.hexdigest().encode())
    assert cloud.received == [(100_003_000, "whole")]
    with connected(proxy) as connection:
        connection.request("GET", "/chunks")
        answer = connection.getresponse()
        size = 0
        while data := answer.read(65536):
            assert data == b"c" * len(data)
            size += len(data)
        assert size == 1600 * 65536
    assert memory() - before < 40 * MIB
    data = bytes(range(256)) * 4096
    assert upload(proxy, data) == (200, hashlib.sha256(data).hexdigest().encode())
    assert ask(proxy, "GET", "/endless") == (200, b"e" * MIB)
    assert ask(proxy, "HEAD", "/x") == (200, b"")
    assert ask(proxy, "DELETE", "/x") == (204, b"")
    assert proxy.injected == []


def test_an_answer_that_comes_before_the_data_were_sent_reaches_the_client(proxy: CloudProxy) -> None:
    assert ask(proxy, "POST", "/early", b"x" * (20 * MIB)) == (413, b'{"no": "room"}')


@pytest.mark.parametrize("kind", ["401", "404", "409", "500", "503"])
def test_errors_are_answered_without_forwarding(kind: str, proxy: CloudProxy, cloud: Cloud) -> None:
    proxy.inject({kind: 1})
    status, body = ask(proxy, "DELETE", "/servers/1")
    assert status == int(kind) and "fault of the test's proxy" in body.decode()
    assert cloud.done == []
    [one] = proxy.injected
    assert (one.service, one.kind, one.method, one.path) == ("nova", kind, "DELETE", "/servers/1")
    others, _ = ask(proxy, "GET", "/servers")
    assert others == (200 if kind in ("404", "409") else int(kind))
    proxy.calm()
    assert ask(proxy, "DELETE", "/servers/1") == (204, b"")
    assert f"{kind}: nova DELETE /servers/1" in proxy.report()


def test_a_token_can_not_be_refused_by_keystone_itself(proxy: CloudProxy) -> None:
    proxy.inject({"401": 0.5, "409": 0.5})
    with connected(proxy, "keystone") as connection:
        connection.request("POST", "/v3/auth/tokens", b"{}")
        assert connection.getresponse().status == 201


def test_a_reset_comes_before_and_a_loss_after_the_request_was_done(proxy: CloudProxy, cloud: Cloud) -> None:
    proxy.once("reset", "POST", "^/servers$")
    with pytest.raises(ConnectionError):
        ask(proxy, "POST", "/servers?a=1", b"{}")
    assert cloud.done == []
    proxy.once("lost", "POST", "^/servers$", service="nova")
    assert ask(proxy, "POST", "/other", b"{}")[0] == 200
    with pytest.raises(ConnectionError):
        ask(proxy, "POST", "/servers", b"{}")
    assert cloud.done == [("POST", "/other"), ("POST", "/servers")]
    assert ask(proxy, "POST", "/servers", b"{}")[0] == 200
    assert [(each.kind, each.path) for each in proxy.injected] == [("reset", "/servers?a=1"), ("lost", "/servers")]


def test_a_delay(proxy: CloudProxy) -> None:
    proxy.inject({"delay": 1}, longest=0.6)
    began = time.monotonic()
    assert ask(proxy, "GET", "/x")[0] == 200
    assert time.monotonic() - began >= proxy.injected[0].seconds > 0


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_cut_upload(chunked: bool, proxy: CloudProxy, cloud: Cloud) -> None:
    """Small ones and large ones: never does all of it come, with its end."""
    proxy.inject({"cut-upload": 1})
    sizes = (1, 1000, MIB, 20 * MIB)
    for number, size in enumerate(sizes, 1):
        with pytest.raises(BROKEN):
            upload(proxy, iter([b"u" * size]) if chunked else b"u" * size)
        got, how = cloud.until_received(number)[-1]
        assert how == "cut" and got <= size
    assert ask(proxy, "PUT", "/file", b"no image", Content_Type="application/json")[0] == 200
    assert len(proxy.injected) == len(sizes)


@pytest.mark.parametrize("path", ["/bytes", "/chunks", "/endless", "/some.json"])
def test_a_cut_download(path: str, proxy: CloudProxy) -> None:
    proxy.inject({"cut-download": 1})
    for _ in range(5):
        with pytest.raises(BROKEN):
            ask(proxy, "GET", path)
    assert len(proxy.injected) == 5


def test_rates_are_kept_and_the_seed_decides(cloud: Cloud) -> None:
    def kinds(seed: int) -> list[str]:
        with CloudProxy(cloud.urls, seed=seed) as proxy, connected(proxy) as connection:
            proxy.inject({"500": 0.2, "503": 0.1, "404": 0.7})
            for _ in range(300):
                connection.request("GET", "/x")
                connection.getresponse().read()
            return [each.kind for each in proxy.injected]

    first = kinds(1)
    assert kinds(1) == first != kinds(2)
    assert 35 <= first.count("500") <= 90 and 12 <= first.count("503") <= 55 and "404" not in first


def test_an_outage(proxy: CloudProxy) -> None:
    with connected(proxy) as open_one:
        open_one.request("GET", "/x")
        open_one.getresponse().read()
        with proxy.down("nova"):
            with pytest.raises(ConnectionRefusedError):
                ask(proxy, "GET", "/x")
            with pytest.raises(BROKEN):
                open_one.request("GET", "/x")
                open_one.getresponse()
            with connected(proxy, "keystone") as other:
                other.request("GET", "/v3")
                assert other.getresponse().status == 200
    assert ask(proxy, "GET", "/x")[0] == 200


def test_a_cloud_that_is_away_is_away_through_it(proxy: CloudProxy, cloud: Cloud) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with CloudProxy({"nova": f"http://127.0.0.1:{nobody.getsockname()[1]}"}) as broken, pytest.raises(BROKEN):
            ask(broken, "GET", "/x")


def test_a_client_that_goes_takes_its_upload_with_it(proxy: CloudProxy, cloud: Cloud) -> None:
    """As when imageflow is killed: the cloud sees the end of the connection, not the end of the data."""
    with connected(proxy) as connection:
        connection.putrequest("PUT", "/file")
        connection.putheader("Content-Length", "1000000")
        connection.endheaders(b"begin")
        assert connection.sock is not None
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    [(size, how)] = cloud.until_received(1)
    assert size <= 5 and how == "cut"


def test_a_client_of_openstack_meets_what_it_knows(proxy: CloudProxy) -> None:
    auth = v3.Password(proxy.auth_url, username="u", password="p", user_domain_id="default", project_name="p")
    client = session.Session(auth)

    def get() -> Any:
        return client.get("/whoami", endpoint_filter={"service_type": "compute"})

    assert get().status_code == 200
    for kind, error in {
        "500": exceptions.InternalServerError,
        "503": exceptions.ServiceUnavailable,
        "reset": exceptions.ConnectFailure,
        "lost": exceptions.ConnectFailure,
    }.items():
        proxy.once(kind, "GET", "whoami")
        with pytest.raises(error):
            get()
    before = [path for _, _, path, _ in proxy.seen].count("/v3/auth/tokens")
    proxy.once("401", "GET", "whoami")
    assert get().status_code == 200  # with a new token
    assert [path for _, _, path, _ in proxy.seen].count("/v3/auth/tokens") == before + 1
    assert {each.kind for each in proxy.injected} < set(KINDS)


def test_whatever_goes_wrong_was_injected(proxy: CloudProxy) -> None:
    """Many clients at once: each fault is in the record, and everything else is answered as without a proxy."""
    proxy.inject(dict.fromkeys(KINDS, 0.05), longest=0.05)
    data = bytes(range(256)) * 2048
    requests: list[tuple[str, str, bytes | None, tuple[int, bytes]]] = [
        ("PUT", "/file", data, (200, hashlib.sha256(data).hexdigest().encode())),
        ("GET", "/bytes", None, (200, b"b" * MIB)),
        ("GET", "/endless", None, (200, b"e" * MIB)),
        ("DELETE", "/it", None, (204, b"")),
    ]
    met: list[str] = []

    def client(number: int) -> None:
        for turn in range(60):
            method, path, body, expected = requests[(number + turn) % len(requests)]
            try:
                got = ask(proxy, method, path, body, Content_Type="application/octet-stream")
            except BROKEN:
                met.append("broken")
            else:
                met.append("" if got == expected else str(got[0]))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    injected = [each.kind if each.kind in STATUSES else "broken" for each in proxy.injected if each.kind != "delay"]
    assert len(met) == 480 and set(injected) == {"broken", *STATUSES}
    assert sorted(filter(None, met)) == sorted(injected), proxy.report()
