"""A real HTTP server on loopback that misbehaves as told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served under /disk, and how."""

    data: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    length: bool = True  # tells Content-Length
    cut: list[int] = field(default_factory=list)  # bytes after which each of the next answers breaks off
    codes: list[int] = field(default_factory=list)  # of the next answers, before one that is fine
    headers: dict[str, str] = field(default_factory=dict)
    redirect: Callable[[str], str | None] = lambda path: None
    wrong_range: bool = False  # answers 206 with another part than asked for
    hold: threading.Event | None = None  # after half of an answer, wait for it
    half_sent: threading.Event = field(default_factory=threading.Event)
    chunk: int = 1 << 16
    seen: list[dict[str, str]] = field(default_factory=list)  # the requests' headers, and 'path'
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One GET."""
        self.seen.append({"path": handler.path, **dict(handler.headers.items())})
        if to := self.redirect(handler.path):
            handler.send_response(302)
            handler.send_header("Location", to)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if self.codes:
            handler.send_response(self.codes.pop(0))
            for name, value in self.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = self._start(handler)
        if start is not None and start >= len(self.data):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.data)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = self.data[start or 0 :]
        handler.send_response(200 if start is None else 206)
        if start is not None:
            told = 0 if self.wrong_range else start
            handler.send_header("Content-Range", f"bytes {told}-{len(self.data) - 1}/{len(self.data)}")
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        else:
            handler.close_connection = True
        handler.end_headers()
        end = min(self.cut.pop(0), len(body)) if self.cut else len(body)
        for offset in range(0, end, self.chunk):
            if self.hold is not None and offset >= len(body) // 2:
                self.half_sent.set()
                self.hold.wait(30)
            handler.wfile.write(body[offset : min(offset + self.chunk, end)])
        handler.close_connection = handler.close_connection or end < len(body)

    def _start(self, handler: BaseHTTPRequestHandler) -> int | None:
        asked = handler.headers.get("Range")
        condition = handler.headers.get("If-Range")
        if not self.ranges or asked is None or (condition is not None and condition != self.etag):
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-"))


@contextlib.contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve it until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                site.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/disk"
    try:
        yield site
    finally:
        if site.hold is not None:
            site.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
