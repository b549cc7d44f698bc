"""A reverse proxy between imageflow and a cloud that injects faults: one port for each service, in a thread of the test.

    with CloudProxy.before(session, region=…) as proxy:  # a keystoneauth session; or CloudProxy({"keystone": URL, ...})
        ...                                             # imageflow is given proxy.auth_url and nothing else
        proxy.inject({"500": 0.02, "lost": 0.02, "delay": 0.05})    # kinds: tests.servers.cloud_faults.KINDS
        proxy.once("lost", "POST", r"/servers$")        # the next such request, whatever the rates are
        with proxy.down("nova"): ...                    # refuses connections
        proxy.calm()
        print(proxy.report())

URLs of the services in JSON (catalogue, version documents, links) and in headers are rewritten to the proxy's own,
so that a client that was given the proxy's auth URL sends all its requests through the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.servers import cloud_faults as faults
from tests.servers import http_wire as wire
from tests.servers.cloud_faults import Injected

SERVICES = {"identity": "keystone", "image": "glance", "compute": "nova", "network": "neutron"}
_REWRITABLE = 32 << 20  # bytes of JSON that are held to be rewritten
_OWN = {"connection", "keep-alive", "proxy-connection", "accept-encoding", "expect", "host"}  # not passed on
_LOOPBACK = ("127.0.0.1", "localhost")
_T = TypeVar("_T")


@dataclass
class _Service:
    name: str
    host: str
    port: int  # of the cloud
    reserved: socket.socket  # holds our port while the service is down
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The proxy's own, without a path."""
        return f"http://127.0.0.1:{self.reserved.getsockname()[1]}"

    def same(self) -> list[str]:
        """The cloud's URLs for it, without a path."""
        return [f"http://{host}:{self.port}" for host in (_LOOPBACK if self.host in _LOOPBACK else (self.host,))]


class CloudProxy:
    """Runs inside a `with` block; every method may be called from any thread of the test."""

    def __init__(self, services: Mapping[str, str], *, seed: int = 0) -> None:
        """`services`: name (keystone, glance, nova, neutron) -> URL, of which scheme, host and port count."""
        self.seen: deque[tuple[str, str, str, int]] = deque(maxlen=50_000)  # (service, method, path, cloud's status)
        self._faults = faults.Faults(seed)
        self._auth_path = "/v3"
        self._services = {name: _service(name, url) for name, url in services.items()}
        self._rewrites = {
            theirs.encode(): service.url.encode() for service in self._services.values() for theirs in service.same()
        }
        self._foreign = re.compile(b"(" + b"|".join(map(re.escape, self._rewrites)) + rb")(?!\d)")
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._note)
        self._bugs: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="cloud proxy", daemon=True)

    @classmethod
    def before(cls, session: Any, *, region: str | None, seed: int = 0) -> Self:
        """A proxy for the cloud of a keystoneauth session: for every service of SERVICES in its catalogue, in this region.

        `region`: None only when there is one region; of several, any may be first in the catalogue.
        """
        catalogue = session.auth.get_access(session).service_catalog
        found = {
            name: catalogue.get_urls(
                service_type=kind, interface="public", region_name=None if kind == "identity" else region
            )
            for kind, name in SERVICES.items()
        }
        proxy = cls({name: urls[0] for name, urls in found.items() if urls}, seed=seed)
        proxy._auth_path = urlsplit(session.auth.auth_url).path.rstrip("/") or "/v3"
        return proxy

    @property
    def auth_url(self) -> str:
        """The auth URL for clients."""
        return self.url("keystone") + self._auth_path

    def url(self, service: str) -> str:
        """The proxy's URL for a service, without a path."""
        return self._services[service].url

    # -- faults --------------------------------------------------------------------------------------

    @property
    def injected(self) -> list[Injected]:
        """The faults so far."""
        return list(self._faults.injected)

    def inject(
        self, rates: Mapping[str, float], *, services: Collection[str] | None = None, longest: float = 20.0
    ) -> None:
        """From now on inject faults: kind -> share of the requests that can meet it; `longest`: seconds of a delay."""
        self._faults.inject(rates, services, longest)

    def calm(self) -> None:
        """From now on inject no faults, neither by rate nor by `once`."""
        self._faults.calm()

    def once(self, kind: str, method: str, path: str, *, service: str | None = None) -> None:
        """Let the next request of this method whose path (without the query) contains the pattern meet this fault."""
        self._faults.once(kind, method, path, service)

    @contextlib.contextmanager
    def down(self, *services: str) -> Iterator[None]:
        """These services refuse connections, and lose the open ones; at the end of the block they are up again."""
        for service in services:
            self.stop(service)
        try:
            yield
        finally:
            for service in services:
                self.start(service)

    def stop(self, service: str) -> None:
        """Refuse connections, until `start`."""
        self._call(self._close(self._services[service]))

    def start(self, service: str) -> None:
        """Take connections again."""
        self._call(self._listen(self._services[service]))

    def report(self) -> str:
        """The number of requests, and the faults, as lines."""
        counts = Counter(each.kind for each in self.injected)
        summary = ", ".join(f"{kind} {counts[kind]}" for kind in faults.KINDS if counts[kind]) or "none"
        return "\n".join(
            [f"{len(self.seen)} requests answered by the cloud; faults: {summary}", *map(str, self.injected)]
        )

    # -- life ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        for name in self._services:
            self.start(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self._services.values():
            self._call(self._close(service))
            service.reserved.close()
        self._call(wire.end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._loop.close()
        assert error or not self._bugs, f"the proxy itself failed: {self._bugs}"

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), asyncio.CancelledError):  # that is the end of the test
            self._bugs.append(context)

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self, service: _Service) -> None:
        if service.server is not None:
            return

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(service, reader, writer)

        port = service.reserved.getsockname()[1]
        service.server = await asyncio.start_server(serve, "127.0.0.1", port, reuse_port=True)

    async def _close(self, service: _Service) -> None:
        if service.server is not None:
            service.server.close()
            service.server = None
        for writer in list(service.writers):
            wire.reset(writer)

    # -- requests ------------------------------------------------------------------------------------

    async def _serve(self, service: _Service, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service.writers.add(writer)
        try:
            while (request := await wire.read_head(reader)) and await self._exchange(service, request, reader, writer):
                pass
        except (wire.Gone, OSError):
            wire.reset(writer)
        finally:
            service.writers.discard(writer)
            writer.close()

    async def _exchange(
        self, service: _Service, request: wire.Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One request and its answer; -> may another come on this connection?"""
        method, path, version = request.first
        body = wire.body_of(reader, request.framing())
        stays = "close" not in request.get("connection") and version != "HTTP/1.0"
        upload = request.framing() != 0 and "octet-stream" in request.get("content-type")
        fault = self._faults.befalls(service.name, method, path, upload=upload)
        kind = fault.kind if fault else ""
        if kind == "reset":
            raise wire.Gone
        if "100-continue" in request.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if kind in faults.STATUSES:
            async for _ in body:
                pass
            keystone = self._services.get("keystone", service).url
            writer.write(faults.answer(service.name, int(kind), method, keystone))
            await writer.drain()
            return stays
        if fault and fault.seconds:
            await asyncio.sleep(fault.seconds)
        try:
            from_cloud, to_cloud = await asyncio.open_connection(service.host, service.port)
        except OSError:
            raise wire.Gone from None
        sending = asyncio.create_task(self._send(service, request, body, to_cloud, cut=kind == "cut-upload"))
        try:
            answer = await wire.first_of(sending, wire.read_answer(from_cloud))
            self.seen.append((service.name, method, path, int(answer.first[1])))
            length = answer.framing(method == "HEAD" or answer.first[1] in ("204", "304"), otherwise=-1)
            data = wire.body_of(from_cloud, length)
            if kind == "lost":
                async for _ in data:
                    pass
                raise wire.Gone
            ends = await self._answer(answer, data, length, writer, cut=kind == "cut-download")
            await sending
            return stays and ends
        finally:
            await wire.ended(sending)
            to_cloud.close()

    async def _send(
        self, service: _Service, request: wire.Head, body: AsyncIterator[bytes], to: asyncio.StreamWriter, *, cut: bool
    ) -> None:
        """Forward a request; when the cloud closes early, read the rest, so that the client gets to its answer."""
        headers = [(name, value) for name, value in request.headers if name.lower() not in _OWN]
        headers += [("Host", f"{service.host}:{service.port}"), ("Connection", "close")]
        length = request.framing()
        left = self._faults.part(length) if cut else None
        taken = await wire.sent(to, wire.Head(request.first, headers).encode())
        async for piece in body:
            if left is not None:
                piece, left = piece[:left], left - len(piece)
            taken = taken and await wire.sent(to, wire.framed(piece, length))
            if left is not None and left <= 0:
                break
        if cut:
            wire.reset(to)
            raise wire.Gone
        if length is None and taken:
            await wire.sent(to, wire.LAST)

    async def _answer(
        self,
        answer: wire.Head,
        data: AsyncIterator[bytes],
        length: int | None,
        to: asyncio.StreamWriter,
        *,
        cut: bool,
    ) -> bool:
        """Pass an answer on, with our URLs in it; -> is its end known without closing the connection?"""
        headers = [
            (name, self._ours(value.encode("latin-1")).decode("latin-1"))
            for name, value in answer.headers
            if name.lower() not in _OWN
        ]
        if length != 0 and "json" in answer.get("content-type"):
            whole = self._ours(b"".join([piece async for piece in wire.up_to(_REWRITABLE, data)]))
            length, data = len(whole), wire.pieces(whole)
            headers = [pair for pair in headers if pair[0].lower() not in ("content-length", "transfer-encoding")]
            headers.append(("Content-Length", str(length)))
        if length == -1:
            headers.append(("Connection", "close"))
        to.write(wire.Head(["HTTP/1.1", *answer.first[1:]], headers).encode())
        left = self._faults.part(length) if cut else None
        async for piece in data:
            if left is not None:
                piece, left = piece[:left], left - len(piece)
            to.write(wire.framed(piece, length))
            await to.drain()
            if left is not None and left <= 0:
                break
        if cut:
            await wire.flushed(to)
            raise wire.Gone
        if length is None:
            to.write(wire.LAST)
        await to.drain()
        return length != -1

    def _ours(self, data: bytes) -> bytes:
        return self._foreign.sub(lambda found: self._rewrites[found[1]], data)


def _service(name: str, url: str) -> _Service:
    parts = urlsplit(url)
    assert parts.scheme == "http" and parts.hostname and parts.port, f"{url}: http://HOST:PORT is needed"
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused, and the port stays ours
    return _Service(name, parts.hostname, parts.port, reserved)
