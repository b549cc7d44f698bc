"""What every request goes through first: its id, the rate limit, the limits of its body, the last resort."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from dataclasses import dataclass
from typing import Any

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imageflow.api.problems import REQUEST_ID, Problem, busy, new_request_id, render
from imageflow.config.traffic import ApiConfig
from imageflow.errors import ConfigError
from imageflow.listeners import Inbox

LOG = logging.getLogger(__name__)
HELD = 16  # bodies of the largest size that are in memory at once, whoever sends them
_CLOSE = {"connection": "close"}  # the rest of the body is not read
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(slots=True)
class _Body:
    """How much of a request's body came."""

    size: int = 0
    whole: bool = False


def rate_of(text: str) -> RateLimitItem:
    """The rate limit of `[api] rate`; raises ConfigError."""
    try:
        return parse(text)
    except ValueError:
        raise ConfigError(f"[api] rate: {text!r} is no rate", hint="such as 600/minute or 20/second") from None


class Gate:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, *, api: ApiConfig, inbox: Inbox) -> None:
        self._app = app
        self._inbox = inbox
        self._limit = api.max_body << 10
        self._room = HELD * self._limit
        self._patience = api.timeout
        self._rate = rate_of(api.rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        begun, status = time.monotonic(), 0
        body = _Body()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS, (REQUEST_ID.encode(), request_id.encode())]
            await send(message)

        try:
            await self._admit(scope)
            await self._app(scope, self._bounded(receive, body), answer)
        except Problem as problem:
            await self._refuse(problem, scope, answer)
        except Exception:
            LOG.exception("request %s: this is a bug of imageflow", request_id)
            if not status:
                bug = Problem(
                    500, "internal", "imageflow made a mistake", hint="its log says more, by the request's id"
                )
                await render(bug, request_id)(scope, receive, answer)
        finally:
            self._room += body.size
            milliseconds = (time.monotonic() - begun) * 1000
            path = scope["path"][:200]
            LOG.info("%s %s %r: %d in %.0f ms", request_id, scope["method"], path, status, milliseconds)

    async def _refuse(self, problem: Problem, scope: Scope, answer: Send) -> None:
        count(self._inbox, scope["path"], problem)
        await render(problem, scope["state"]["request_id"])(scope, _nothing, answer)

    async def _admit(self, scope: Scope) -> None:
        """Raises Problem for what needs no look at the body to be refused."""
        if scope["path"] == "/healthz":
            return
        client = _client(scope)
        if not await self._limiter.hit(self._rate, client):
            reset, _ = await self._limiter.get_window_stats(self._rate, client)
            wait = str(max(1, round(reset - time.time())))
            detail = f"more than {self._rate.amount} requests in {self._rate.get_expiry()} seconds"
            raise Problem(429, "request.rate", detail, hint="[api] rate", headers={"retry-after": wait, **_CLOSE})
        for name, value in scope["headers"]:
            # more digits than any length has: the number itself would be work
            if name == b"content-length" and (len(value) > 18 or int(value) > self._limit):
                raise self._too_large()

    def _too_large(self) -> Problem:
        detail = f"the body is larger than {self._limit >> 10} KiB"
        return Problem(413, "request.too-large", detail, hint="[api] max_body", headers=_CLOSE)

    def _bounded(self, receive: Receive, body: _Body) -> Receive:
        """`receive` that raises Problem when the body is too large or too slow: a chunked one names no length."""
        end = asyncio.get_running_loop().time() + self._patience

        async def bounded() -> Message:
            if body.whole:
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                detail = f"the request did not come whole within {self._patience:g} seconds"
                raise Problem(408, "request.slow", detail, headers=_CLOSE) from None
            size = len(message.get("body", b""))
            body.size += size
            self._room -= size
            body.whole = not message.get("more_body", False)
            if body.size > self._limit:
                raise self._too_large()
            if self._room < 0:
                raise busy("too many large requests at once", _CLOSE)
            return message

        return bounded


def count(inbox: Inbox, path: str, problem: Problem) -> None:
    """Count a refusal at the endpoint it was meant for; what went to none is nobody's."""
    if problem.status in (404, 405) or problem.status >= 500:
        return
    endpoint = path.removeprefix("/v1/")
    inbox.refuse(endpoint if path.startswith("/v1/") and len(endpoint) < 32 else "http", problem.reason)


def _client(scope: Scope) -> str:
    """Who asks, for the rate limit: an IPv4 address, or the /64 network that one IPv6 customer has."""
    host = scope["client"][0] if scope.get("client") else "unknown"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


async def _nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}
