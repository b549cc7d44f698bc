"""Successful answers of the HTTP interface, and how all answers are declared in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from imageflow.api.problems import REQUEST_ID, ErrorDocument
from imageflow.model import Receipt

_WORDS = {
    400: "It is invalid; nothing of it is kept.",
    401: "It does not prove who sent it; nothing of it is kept.",
    403: "This sender may not do that, or it is closed: no secret is configured.",
    404: "There is no such thing.",
    409: "Its state does not allow that.",
    412: "It has changed since it was read.",
    408: "The request did not arrive in time.",
    413: "The body is larger than [api] max_body.",
    415: "The body's content type is not supported.",
    422: "The Idempotency-Key was used for another request.",
    429: "Too many requests from this client; Retry-After says when to try again.",
    500: "A bug in imageflow; nothing of it is kept.",
    503: "It could not be stored now: send it again after Retry-After.",
}
ID_HEADER = {REQUEST_ID: {"description": "Identifies the request.", "schema": {"type": "string"}}}
_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}}


class KeptEvent(BaseModel):
    """An event that is stored."""

    source: str
    id: str
    type: str
    new: bool = Field(description="False: it was stored before; that is not an error.")
    seq: int = Field(description="Its place in the order of arrival.")


class KeptEvents(BaseModel):
    """What is stored, durably, in the order of arrival."""

    events: list[KeptEvent]


class Health(BaseModel):
    """The process is alive."""

    status: str = Field(examples=["ok"])


def kept(receipts: Sequence[Receipt]) -> KeptEvents:
    """The answer for these receipts."""
    return KeptEvents(
        events=[
            KeptEvent(source=r.event.source, id=r.event.id, type=r.event.type, new=r.new, seq=r.event.seq)
            for r in receipts
        ]
    )


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The declaration of the statuses with which an operation may refuse."""
    return {
        status: {
            "model": ErrorDocument,
            "description": _WORDS[status],
            "headers": ID_HEADER | (_RETRY if status in (429, 503) else {}),
        }
        for status in statuses
    }


def accepted(description: str) -> dict[int | str, dict[str, Any]]:
    """The declaration of a 202."""
    return {202: {"model": KeptEvents, "description": description, "headers": ID_HEADER}}
