"""A tiny application behind `Access`, with the error format of the real one: what a request without any work costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from anyio.from_thread import start_blocking_portal
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from imageflow.access import Caller
from imageflow.access.tokens import Tokens
from imageflow.api.access import Access
from imageflow.api.problems import RequestProblem, render
from imageflow.config import Config


def guarded(config: Config, tokens: Tokens) -> FastAPI:
    """GET /v1/builds tells who asked; GET /v1/builds/PROJECT/RULE says whether they may do that there."""
    app = FastAPI()
    access = Access(config, tokens)
    depends = Depends(access)

    @app.get("/v1/builds")
    async def who(caller: Caller = depends) -> dict[str, Any]:
        access.require(caller, "builds:list")
        return {
            "project": caller.project,
            "user": caller.user,
            "roles": sorted(caller.roles),
            "request_id": caller.request_id,
        }

    @app.get("/v1/builds/{project}/{rule}")
    async def may(project: str, rule: str, caller: Caller = depends) -> dict[str, bool]:
        access.require(caller, rule, project)
        return {"may": True}

    async def on_problem(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestProblem)
        return render(error, "req-of-the-test")

    app.add_exception_handler(RequestProblem, on_problem)
    return app


Send = Callable[..., httpx.Response]


@contextmanager
def asked(app: FastAPI) -> Iterator[Send]:
    """Sends requests to an application on an event loop of its own, from any thread: path, headers, address of the client."""
    with start_blocking_portal() as portal:

        def send(path: str, headers: Mapping[str, Any] | None = None, address: str = "192.0.2.1") -> httpx.Response:
            return portal.call(_send, app, path, headers, address)

        yield send


async def _send(app: FastAPI, path: str, headers: Mapping[str, Any] | None, address: str) -> httpx.Response:
    transport = httpx.ASGITransport(app, client=(address, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://imageflow") as client:
        return await client.get(path, headers=headers)
