"""What the HTTP interface says when it says no: one shape of error, with codes that stay what they are."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from http import HTTPStatus

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

REQUEST_ID = "x-openstack-request-id"
AWAY = "5"  # seconds after which what is away may be back


class Problem(Exception):
    """A request that is refused. Its words reach the sender, its `reason` the counts: none holds a secret."""

    def __init__(
        self, status: int, code: str, detail: str, *, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """`code` without its "imageflow." prefix; its last part is what the refusal is counted as."""
        super().__init__(detail)
        self.status = status
        self.code = f"imageflow.{code}"
        self.reason = code.rpartition(".")[2]
        self.detail = f"{detail} ({hint})" if hint else detail
        self.headers = dict(headers or {})


class ErrorItem(BaseModel):
    """One thing that is wrong with a request."""

    request_id: str = Field(description="Of the request; the same as the header x-openstack-request-id.")
    code: str = Field(description="Stable, such as imageflow.webhook.bad-signature.")
    status: int = Field(description="The HTTP status.")
    title: str = Field(description="The status in words.")
    detail: str = Field(description="What is wrong, where, and the way out.")


class ErrorDocument(BaseModel):
    """Body of every response that says no."""

    errors: list[ErrorItem]


def new_request_id() -> str:
    """A name for a request, as OpenStack's services make them."""
    return f"req-{uuid.uuid4()}"


def render(problem: Problem, request_id: str) -> JSONResponse:
    """The response that says so."""
    item = ErrorItem(
        request_id=request_id,
        code=problem.code,
        status=problem.status,
        title=HTTPStatus(problem.status).phrase,
        detail=problem.detail,
    )
    return JSONResponse(
        ErrorDocument(errors=[item]).model_dump(), status_code=problem.status, headers={**problem.headers}
    )


def busy(detail: str, headers: Mapping[str, str] | None = None) -> Problem:
    """503: not now; the sender has to keep it."""
    return Problem(503, "unavailable", detail, hint="send it again", headers={"retry-after": AWAY, **(headers or {})})


def malformed(detail: str, *, hint: str = "", subject: str = "request") -> Problem:
    """400: what came is not what it must be. `subject`: request, event, webhook."""
    return Problem(400, f"{subject}.malformed", detail, hint=hint)
