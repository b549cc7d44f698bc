"""The HTTP interface as a whole: its routes, its errors, its OpenAPI document."""

from __future__ import annotations

import logging
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from imageflow.api.events import events_router
from imageflow.api.gate import Gate, count, rate_of
from imageflow.api.problems import Problem, malformed, render
from imageflow.api.responses import Health, refusals
from imageflow.api.storing import away
from imageflow.api.webhooks import webhooks_router
from imageflow.errors import ImageflowError
from imageflow.listeners import Surroundings

_TAGS = [
    {"name": "events", "description": "CloudEvents 1.0."},
    {"name": "webhooks", "description": "What forges send."},
    {"name": "service", "description": "The process itself."},
]
_SECURITY = {
    "eventsToken": {"type": "http", "scheme": "bearer", "description": "[events] token"},
    "gerritToken": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Gerrit-Token",
        "description": "[webhooks] gerrit_token",
    },
    "gerritBasic": {"type": "http", "scheme": "basic", "description": "[webhooks] gerrit_token as the password"},
}
LOG = logging.getLogger(__name__)


def create_app(surroundings: Surroundings) -> FastAPI:
    """The ASGI application on an inbox; raises ConfigError for options that can't be meant."""
    rate_of(surroundings.config.api.rate)
    app = FastAPI(
        title="imageflow",
        version=version("imageflow"),
        summary="Events in.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        openapi_tags=_TAGS,
        docs_url=None,  # their scripts come from elsewhere
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

    app.add_middleware(Gate, api=surroundings.config.api, inbox=surroundings.inbox)
    _say_no(app, surroundings)
    document = app.openapi()
    document["components"]["securitySchemes"] = _SECURITY
    return app


def _say_no(app: FastAPI, surroundings: Surroundings) -> None:
    """Every exception in our own shape."""

    def answer(request: Request, problem: Problem) -> JSONResponse:
        count(surroundings.inbox, request.url.path, problem)
        return render(problem, request.state.request_id)

    async def on_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return answer(request, error)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            problem = Problem(404, "request.not-found", "there is nothing at this path", hint="see /openapi.json")
        elif error.status_code == 405:
            problem = Problem(405, "request.method", "this path has other methods", headers=error.headers)
        else:
            problem = Problem(error.status_code, "request.refused", str(error.detail), headers=error.headers)
        return answer(request, problem)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        places = ", ".join(".".join(map(str, one["loc"])) for one in error.errors()[:5])
        return answer(request, malformed(f"not usable: {places}"))

    async def on_imageflow(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ImageflowError)
        LOG.warning("%s: %s", request.state.request_id, error)
        return answer(request, away())

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(ImageflowError, on_imageflow)
