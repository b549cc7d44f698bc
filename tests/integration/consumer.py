"""A real consumer of CloudEvents over HTTP: it checks signatures with the library, and misbehaves as told."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook

Behaviour = Callable[[dict[str, Any]], int | str]


class Consumer:
    """Takes what is posted to it; `behave` says how it answers: a status, 'hang' or 'reset'."""

    def __init__(self, secret: str) -> None:
        self.webhook = Webhook(secret)
        self.behave: Behaviour = lambda event: 204
        self.got: list[dict[str, Any]] = []  # what it answered with 2xx
        self.seen: list[dict[str, Any]] = []  # everything that arrived
        self.forged = 0
        self.certificate: tuple[Path, Path] | None = None  # and its key: talk TLS
        self._news = threading.Condition()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._over = threading.Event()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook?token=in-the-url"

    def start(self) -> None:
        """Listen, on the same port again."""
        consumer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                consumer._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # the sender was killed

        self._over.clear()
        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Nobody answers any more."""
        if self._server is not None:
            self._over.set()
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        try:
            event = self.webhook.verify(body, dict(handler.headers.items()))
            assert event["id"] == handler.headers["webhook-id"]
            assert handler.headers["Content-Type"] == "application/cloudevents+json; charset=UTF-8"
        except Exception:
            self.forged += 1
            raise
        how = self.behave(event)
        with self._news:
            self.seen.append(event)
            if isinstance(how, int) and how < 300:
                self.got.append(event)
            self._news.notify_all()
        if how == "hang":
            self._over.wait(30)
            return
        if how == "reset" or self._over.is_set():
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        handler.send_response(int(how))
        if 300 <= int(how) < 400:
            handler.send_header("Location", self.url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def wait(self, number: int, seconds: float = 30.0) -> list[dict[str, Any]]:
        """Wait until it has taken so many events; -> them."""
        end = time.monotonic() + seconds
        with self._news:
            while len(self.got) < number:
                assert self._news.wait(end - time.monotonic()), f"{len(self.got)} of {number} came"
            return list(self.got)


def about(event: dict[str, Any]) -> str:
    """The build that it is about."""
    data = event["data"]
    return str(json.loads(json.dumps(data))["id" if "image" in data else "build"])
