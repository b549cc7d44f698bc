"""Openers of urllib whose connections are guarded (guard.py), for small files: urllib is there without an import of requests."""

from __future__ import annotations

import functools
import http.client
import ssl
import urllib.request
from collections.abc import Callable
from email.message import Message
from http.client import HTTPResponse
from typing import IO

from imageflow.fetch import guard
from imageflow.host.addresses import Policy

Connect = Callable[..., object]


def opener(proxies: dict[str, str], permitted: Policy) -> urllib.request.OpenerDirector:
    """For http and https alone: a redirect to any other scheme is refused."""
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        _Plain(permitted),
        _Secure(permitted),
        _Redirects(permitted, proxied=bool(proxies)),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        made.add_handler(handler)
    return made


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, permitted: Policy) -> None:
        super().__init__()
        self._connect = functools.partial(guard.connect, permitted)

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(functools.partial(_connection, http.client.HTTPConnection, self._connect), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, permitted: Policy) -> None:
        super().__init__()
        self._connect = functools.partial(guard.connect, permitted)

    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        make = functools.partial(_connection, http.client.HTTPSConnection, self._connect)
        return self.do_open(make, req, context=ssl.create_default_context())


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, permitted: Policy, *, proxied: bool) -> None:
        self._permitted = permitted
        self._proxied = proxied

    def http_request(self, req: urllib.request.Request) -> urllib.request.Request:
        """Look at what a proxy is to be asked for, first and after each redirect; other connections are looked at when made."""
        if self._proxied:
            guard.check(self._permitted, req.full_url)
        return req

    https_request = http_request

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        guard.check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _connection(
    kind: type[http.client.HTTPConnection], connect: Connect, host: str, **more: object
) -> http.client.HTTPConnection:
    made = kind(host, **more)  # type: ignore[arg-type]
    made._create_connection = connect  # type: ignore[attr-defined]
    return made
