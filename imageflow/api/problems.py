"""Refusals of the HTTP interface: one error format, with stable codes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from http import HTTPStatus

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

REQUEST_ID = "x-openstack-request-id"
AWAY = "5"  # seconds after which an unavailable part may be back


class RequestProblem(Exception):
    """A request that is refused. Its text reaches the sender, its `reason` the counts: neither holds a secret."""

    def __init__(
        self, status: int, code: str, detail: str, *, hint: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """`code` without its "imageflow." prefix; its last part is the reason under which the refusal is counted."""
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
    """Body of every error response."""

    errors: list[ErrorItem]
    message: str = Field(description="The detail of the first error: some clients look only here.")


def new_request_id() -> str:
    """A new request id, in the form OpenStack's services use."""
    return f"req-{uuid.uuid4()}"


def render(problem: RequestProblem, request_id: str) -> JSONResponse:
    """The HTTP response for a problem."""
    item = ErrorItem(
        request_id=request_id,
        code=problem.code,
        status=problem.status,
        title=HTTPStatus(problem.status).phrase,
        detail=problem.detail,
    )
    return JSONResponse(
        ErrorDocument(errors=[item], message=item.detail).model_dump(),
        status_code=problem.status,
        headers={**problem.headers},
    )


def busy(detail: str, headers: Mapping[str, str] | None = None) -> RequestProblem:
    """503: not now; the sender has to keep it and retry."""
    return RequestProblem(
        503, "unavailable", detail, hint="send it again", headers={"retry-after": AWAY, **(headers or {})}
    )


def malformed(detail: str, *, hint: str = "", subject: str = "request") -> RequestProblem:
    """400: the content is invalid. `subject`: request, event, webhook."""
    return RequestProblem(400, f"{subject}.malformed", detail, hint=hint)
