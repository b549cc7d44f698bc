"""Assembles the HTTP interface: its routes, its errors, its OpenAPI document."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from imageflow.api import document
from imageflow.api.access import Access
from imageflow.api.clients import Clients
from imageflow.api.events import events_router
from imageflow.api.gate import Gate, count_refusal, rate_of
from imageflow.api.problems import RequestProblem, malformed, render
from imageflow.api.readiness import Readiness
from imageflow.api.responses import Health, refusals
from imageflow.api.storing import away
from imageflow.api.v1 import api_router
from imageflow.api.webhooks import webhooks_router
from imageflow.errors import BadInput, Conflict, ImageflowError, NotFound
from imageflow.listeners import Surroundings

_TAGS = [
    {"name": "builds", "description": "What is being built, and was."},
    {"name": "images", "description": "What was made."},
    {"name": "requests", "description": "Images by what should be in them, and who uses them."},
    {"name": "events", "description": "CloudEvents 1.0."},
    {"name": "webhooks", "description": "What forges send."},
    {"name": "service", "description": "The process itself."},
]
# What a client can do something about; of the rest it only knows that it can ask again.
_OURS = (
    (NotFound, 404, "not-found"),
    (Conflict, 409, "conflict"),
    (BadInput, 400, "request.malformed"),
)
LOG = logging.getLogger(__name__)


def create_app(surroundings: Surroundings) -> FastAPI:
    """The ASGI application on top of an inbox; raises ConfigError for invalid options."""
    rate_of(surroundings.config.api.rate)
    Clients(surroundings.config.api.trusted_proxies)
    app = FastAPI(
        title="imageflow",
        version=version("imageflow"),
        summary="Events in, images out.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=_TAGS,
        docs_url=None,  # their scripts come from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(events_router(surroundings))
    app.include_router(webhooks_router(surroundings))

    @app.get(
        "/healthz",
        tags=["service"],
        operation_id="health",
        summary="Whether the process answers",
        response_model=Health,
        responses=refusals(500),
    )
    async def health() -> Health:
        return Health(status="ok")

    readiness = Readiness(surroundings.inbox)

    @app.get(
        "/readyz",
        tags=["service"],
        operation_id="ready",
        summary="Whether events can be stored now",
        response_model=Health,
        responses=refusals(429, 500, 503),
    )
    async def ready() -> Health:
        await readiness.require()
        return Health(status="ok")

    if surroundings.service is not None:
        app.include_router(api_router(surroundings.service, Access(surroundings.config, surroundings.service.tokens)))
    app.add_middleware(Gate, api=surroundings.config.api, inbox=surroundings.inbox)
    _say_no(app, surroundings)
    document.complete(app)
    return app


def _say_no(app: FastAPI, surroundings: Surroundings) -> None:
    """Render every exception in our own error format."""

    def answer(request: Request, problem: RequestProblem) -> JSONResponse:
        count_refusal(surroundings.inbox, request.url.path, problem)
        return render(problem, request.state.request_id)

    async def on_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestProblem)
        return answer(request, error)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            problem = RequestProblem(
                404, "request.not-found", "there is nothing at this path", hint="see /openapi.json"
            )
        elif error.status_code == 405:
            problem = RequestProblem(
                405, "request.method", "this path has other methods", headers={"allow": _methods(app, request.url.path)}
            )
        else:
            problem = RequestProblem(error.status_code, "request.refused", str(error.detail), headers=error.headers)
        return answer(request, problem)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer(request, malformed(f"not usable: {'; '.join(_told(one) for one in error.errors()[:5])}"))

    async def on_imageflow(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ImageflowError)
        for kind, status, code in _OURS:
            if type(error) is kind:
                return answer(request, RequestProblem(status, code, error.message, hint=error.hint))
        LOG.warning("%s: %s", request.state.request_id, error)
        return answer(request, away())

    app.add_exception_handler(RequestProblem, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(ImageflowError, on_imageflow)


def _told(wrong: Mapping[str, Any]) -> str:
    """The place, and what our own checks say of it: pydantic's words would repeat what was sent."""
    place = ".".join(map(str, wrong["loc"]))
    if wrong["type"] != "imageflow":
        return place
    hint = wrong["ctx"].get("hint")
    return f"{place}: {wrong['msg']}" + (f" ({hint})" if hint else "")


def _methods(app: FastAPI, path: str) -> str:
    """What the path takes, by the document: Starlette names the methods of its first route only."""
    found: set[str] = set()
    for template, operations in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
            found |= {method.upper() for method in operations}
    return ", ".join(sorted(found)) or "GET"
