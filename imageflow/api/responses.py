"""What the HTTP interface answers when it says yes, and how both answers stand in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from imageflow.api.problems import REQUEST_ID, ErrorDocument
from imageflow.model import Receipt

_WORDS = {
    400: "It is not what it must be, or (webhooks) it came before; nothing of it is kept.",
    401: "It does not prove who sent it; nothing of it is kept.",
    403: "This is closed: no secret is configured, or the client is not on this machine.",
    408: "The request did not come in time.",
    413: "The body is larger than [api] max_body.",
    415: "The body is of another kind than those that are understood.",
    429: "Too many requests of this client; Retry-After says when to come again.",
    500: "A bug of imageflow; nothing of it is kept.",
    503: "It could not be stored now: send it again after Retry-After.",
}
_ID_HEADER = {REQUEST_ID: {"description": "Names the request.", "schema": {"type": "string"}}}
_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}}


class KeptEvent(BaseModel):
    """An event that is stored."""

    source: str
    id: str
    type: str
    new: bool = Field(description="False: it was there already; that is no error.")
    seq: int = Field(description="Its place in the order of arrival.")


class KeptEvents(BaseModel):
    """What is stored, durably, in the order in which it came."""

    events: list[KeptEvent]


class Health(BaseModel):
    """The process is there and answers."""

    status: str = Field(examples=["ok"])


def kept(receipts: Sequence[Receipt]) -> KeptEvents:
    """The answer about these."""
    return KeptEvents(
        events=[
            KeptEvent(source=r.event.source, id=r.event.id, type=r.event.type, new=r.new, seq=r.event.seq)
            for r in receipts
        ]
    )


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The declaration of what an operation may refuse with."""
    return {
        status: {
            "model": ErrorDocument,
            "description": _WORDS[status],
            "headers": _ID_HEADER | (_RETRY if status in (429, 503) else {}),
        }
        for status in statuses
    }


def accepted(description: str) -> dict[int | str, dict[str, Any]]:
    """The declaration of a 202."""
    return {202: {"model": KeptEvents, "description": description, "headers": _ID_HEADER}}
