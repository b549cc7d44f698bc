"""The listener "http": uvicorn in its own thread, on [api] listen."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from imageflow.background.flag import Flag
from imageflow.errors import ConfigError
from imageflow.listeners import Surroundings

if TYPE_CHECKING:
    import uvicorn

HINT = "[api] listen, or 'imageflow serve --listen HOST:PORT'"
GRACE = 8  # seconds that requests have to end when we stop; less than the service grants us
_LOOK = 0.1  # seconds between two looks at the flag


def address(listen: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, [IPV6]:PORT; raises ConfigError."""
    host, colon, port = listen.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else -1
    if not colon or not host or number not in range(65536) or (":" in host) != bracketed or set(host) & set("[]/@ "):
        raise ConfigError(
            f"[api] listen: {listen!r} is not HOST:PORT", hint=f"such as 127.0.0.1:8780 or [::1]:8780; {HINT}"
        )
    return host, number


def bound(listen: str) -> socket.socket:
    """A listening socket; raises ConfigError."""
    host, port = address(listen)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(place)
            sock.listen(1024)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        words = error.strerror or os.strerror(error.errno or 0)
        raise ConfigError(f"can't listen on {listen}: {words}", hint=f"choose another one: {HINT}") from error
    return sock


def url(sock: socket.socket) -> str:
    """Its URL for a client on this machine."""
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpListener:
    """Webhooks and CloudEvents over HTTP."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    def run(self, stop: Flag) -> None:
        """See listeners.Listener."""
        with _listening(self._surroundings.config.api.listen) as sock:
            server = _server(self._surroundings)
            with asyncio.Runner() as runner:
                runner.run(self._serve(server, sock, stop))

    async def _serve(self, server: uvicorn.Server, sock: socket.socket, stop: Flag) -> None:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        said, where = False, url(sock)  # the server closes it when it ends
        while not serving.done():
            if server.started and not said:
                said = True
                self._surroundings.ready(where)
            if stop.is_set():
                server.should_exit = True
            await asyncio.wait([serving], timeout=_LOOK if said else 0.01)
        serving.result()


@contextlib.contextmanager
def _listening(listen: str) -> Iterator[socket.socket]:
    sock = bound(listen)
    try:
        yield sock
    finally:
        sock.close()


def _server(surroundings: Surroundings) -> uvicorn.Server:
    # imported here: only this listener should pay for loading them
    import uvicorn

    from imageflow.api.app import create_app
    from imageflow.api.clients import Clients
    from imageflow.api.protocol import protocol_with

    config = uvicorn.Config(
        create_app(surroundings),
        http=protocol_with(surroundings.config.api.timeout, Clients(surroundings.config.api.trusted_proxies)),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,  # the gate has one without query strings
        proxy_headers=False,  # otherwise any client could forge its address
        server_header=False,
        timeout_keep_alive=min(5, math.ceil(surroundings.config.api.timeout)),
        timeout_graceful_shutdown=GRACE,
        h11_max_incomplete_event_size=32 << 10,
    )
    return uvicorn.Server(config)
