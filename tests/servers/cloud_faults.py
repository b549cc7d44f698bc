"""The faults that requests of a cloud's clients meet, by seeded rates or one on purpose; and how a service words them."""

from __future__ import annotations

import json
import random
import re
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from tests.servers import http_wire as wire

STATUSES = ("401", "404", "409", "500", "503")  # answered without forwarding; 404 only to DELETE
KINDS = (
    *STATUSES,
    "reset",  # the connection is reset before anything was forwarded
    "lost",  # the request was done, and then the connection is reset
    "delay",  # it is forwarded after a pause
    "cut-upload",  # a part of the request's data is forwarded, then both connections are reset
    "cut-download",  # a part of the answer to a GET is passed on, then the connection is reset
)


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that a client met."""

    at: float  # time.time()
    service: str
    kind: str
    method: str
    path: str  # with the query
    seconds: float = 0.0  # of a delay

    def __str__(self) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(self.at))
        delay = f" {self.seconds:.1f} s" if self.seconds else ""
        return f"{clock} {self.kind}{delay}: {self.service} {self.method} {self.path}"


class Faults:
    """Decides about each request, and remembers; may be called from any thread."""

    def __init__(self, seed: int) -> None:
        self.injected: list[Injected] = []
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._rates: dict[str, float] = {}
        self._services: frozenset[str] | None = None
        self._longest = 20.0
        self._scripted: list[tuple[str, str, re.Pattern[str], str | None]] = []

    def inject(self, rates: Mapping[str, float], services: Collection[str] | None, longest: float) -> None:
        assert set(rates) <= set(KINDS) and sum(rates.values()) <= 1, rates
        with self._lock:
            self._services = None if services is None else frozenset(services)
            self._rates, self._longest = dict(rates), longest

    def once(self, kind: str, method: str, path: str, service: str | None) -> None:
        assert kind in KINDS, kind
        with self._lock:
            self._scripted.append((kind, method, re.compile(path), service))

    def calm(self) -> None:
        with self._lock:
            self._rates, self._scripted = {}, []

    def befalls(self, service: str, method: str, path: str, *, upload: bool) -> Injected | None:
        """The fault that this request meets."""
        with self._lock:
            kind = self._chosen(service, method, path, upload)
            if not kind:
                return None
            seconds = self._random.uniform(0, self._longest) if kind == "delay" else 0.0
            fault = Injected(time.time(), service, kind, method, path, seconds)
            self.injected.append(fault)
            return fault

    def part(self, length: int | None) -> int:
        """Bytes before a cut, mostly few; fewer than there are, if that number is known."""
        with self._lock:
            part = int(2 ** self._random.uniform(0, 23))
            return part if length is None or length < 0 else min(part, self._random.randrange(max(1, length)))

    def _chosen(self, service: str, method: str, path: str, upload: bool) -> str:
        for each in self._scripted:
            kind, of, pattern, only = each
            if of == method and only in (None, service) and pattern.search(urlsplit(path).path):
                self._scripted.remove(each)
                return kind
        if self._services is not None and service not in self._services:
            return ""
        at = self._random.random()
        for kind, rate in self._rates.items():
            if _can_befall(kind, service, method, upload):
                if at < rate:
                    return kind
                at -= rate
        return ""


def _can_befall(kind: str, service: str, method: str, upload: bool) -> bool:
    if kind == "404":
        return method == "DELETE"
    if kind == "401":
        return service != "keystone"  # Keystone's own 401 means a wrong password
    if kind == "409":
        return service != "keystone" and method not in ("GET", "HEAD")
    if kind == "cut-upload":
        return upload
    return kind != "cut-download" or method == "GET"


def answer(service: str, status: int, method: str, keystone: str) -> bytes:
    """An error in the words of the service; `keystone` is Keystone's URL."""
    phrase, message = HTTPStatus(status).phrase, f"fault of the test's proxy: {status}"
    headers = [("x-openstack-request-id", f"req-{uuid.uuid4()}")]
    kind, body = "application/json", _words(service, status, phrase, message)
    if status == 401:
        headers.append(("WWW-Authenticate", f'Keystone uri="{keystone}"'))
    elif service == "glance":
        kind = "text/html; charset=UTF-8"
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    headers += [("Content-Type", kind), ("Content-Length", str(len(data)))]
    return wire.Head(["HTTP/1.1", str(status), phrase], headers).encode() + (b"" if method == "HEAD" else data)


def _words(service: str, status: int, phrase: str, message: str) -> Any:
    if status == 401 or service == "keystone":  # keystonemiddleware answers 401 for all other services
        return {"error": {"code": status, "title": phrase, "message": message}}
    if service == "nova":
        names = {404: "itemNotFound", 409: "conflictingRequest", 500: "computeFault", 503: "serviceUnavailable"}
        return {names[status]: {"code": status, "message": message}}
    if service == "neutron":
        return {"NeutronError": {"type": phrase.replace(" ", ""), "message": message, "detail": ""}}
    head = f"<head>\n  <title>{status} {phrase}</title>\n </head>"
    return f"<html>\n {head}\n <body>\n  <h1>{status} {phrase}</h1>\n  {message}<br /><br />\n </body>\n</html>"
