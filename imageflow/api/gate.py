"""The middleware every request passes first: request id, rate limit, body limits, the last exception handler."""

from __future__ import annotations

import logging
import time
from typing import Any

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imageflow.api.bodies import CLOSE, Bodies
from imageflow.api.clients import Clients
from imageflow.api.forges import FORGES
from imageflow.api.problems import REQUEST_ID, RequestProblem, new_request_id, render
from imageflow.config.traffic import ApiConfig
from imageflow.errors import ConfigError
from imageflow.listeners import Inbox

LOG = logging.getLogger(__name__)
_ENDPOINTS = frozenset(("events", *(f"webhooks/{forge.name}" for forge in FORGES)))  # a stranger invents no others
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


def rate_of(text: str) -> RateLimitItem:
    """The rate limit of `[api] rate`; raises ConfigError."""
    try:
        return parse(text)
    except ValueError:
        raise ConfigError(f"[api] rate: {text!r} is not a rate", hint="such as 600/minute or 20/second") from None


class Gate:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, *, api: ApiConfig, inbox: Inbox) -> None:
        self._app = app
        self._inbox = inbox
        self._bodies = Bodies(api.max_body << 10, api.timeout)
        self._clients = Clients(api.trusted_proxies)
        self._rate = rate_of(api.rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        begun, status, outcome = time.monotonic(), 0, ""
        client = self._clients.of(scope)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS, (REQUEST_ID.encode(), request_id.encode())]
            await send(message)

        try:
            with self._bodies.one(client) as body:
                await self._admit(scope, client)
                await self._app(scope, self._bodies.bounded(receive, body), answer)
        except RequestProblem as problem:
            await self._refuse(problem, scope, answer)
        except ClientDisconnect:
            outcome = "the sender hung up"
            count(self._inbox, scope["path"], "gone")
        except Exception:
            LOG.exception("request %s: this is a bug in imageflow", request_id)
            if not status:
                bug = RequestProblem(
                    500, "internal", "internal error in imageflow", hint="look for the request's id in its log"
                )
                await render(bug, request_id)(scope, receive, answer)
        finally:
            milliseconds = (time.monotonic() - begun) * 1000
            path = scope["path"][:200]
            LOG.info("%s %s %r: %s in %.0f ms", request_id, scope["method"], path, outcome or status, milliseconds)

    async def _refuse(self, problem: RequestProblem, scope: Scope, answer: Send) -> None:
        count_refusal(self._inbox, scope["path"], problem)
        await render(problem, scope["state"]["request_id"])(scope, _nothing, answer)

    async def _admit(self, scope: Scope, client: str) -> None:
        """Raises RequestProblem for what can be refused without reading the body."""
        if scope["path"] == "/healthz":
            return
        kind = "event" if scope["method"] == "POST" and _is_door(scope["path"]) else "other"
        if not await self._limiter.hit(self._rate, client, kind):  # what asks for pages takes no turn of an event
            reset, _ = await self._limiter.get_window_stats(self._rate, client, kind)
            wait = str(max(1, round(reset - time.time())))
            detail = f"more than {self._rate.amount} requests in {self._rate.get_expiry()} seconds"
            raise RequestProblem(429, "request.rate", detail, hint="[api] rate", headers={"retry-after": wait, **CLOSE})
        for name, value in scope["headers"]:
            # more digits than any length has: even parsing it would cost
            if name == b"content-length" and (len(value) > 18 or int(value) > self._bodies.limit):
                raise self._bodies.too_large()


def count_refusal(inbox: Inbox, path: str, problem: RequestProblem) -> None:
    """Count a refusal for the endpoint it was meant for; other paths are not counted."""
    if problem.status not in (404, 405) and problem.status < 500:
        count(inbox, path, problem.reason)


def count(inbox: Inbox, path: str, reason: str) -> None:
    """Count a request of which nothing is kept."""
    endpoint = path.removeprefix("/v1/")
    if endpoint not in _ENDPOINTS or not path.startswith("/v1/"):
        endpoint = "api" if path.startswith("/v1/") else "http"  # ids are part of other paths: each would be a row
    inbox.refuse(endpoint, reason)


def _is_door(path: str) -> bool:
    """Whether events come in there."""
    return path.startswith("/v1/") and path.removeprefix("/v1/") in _ENDPOINTS


async def _nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}
