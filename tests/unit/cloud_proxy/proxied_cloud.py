"""Two services that are no cloud, the chaos tests' proxy before them, and clients that go through it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.servers.cloud_proxy import CloudProxy

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
