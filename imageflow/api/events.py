"""POST /v1/events: CloudEvents 1.0 over HTTP."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Any

from fastapi import APIRouter, Request

from imageflow.api.envelopes import BATCH, MOST, STRUCTURED, Mode, events_of, mode_of
from imageflow.api.problems import Problem, malformed
from imageflow.api.responses import KeptEvents, accepted, kept, refusals
from imageflow.api.signatures import bearer
from imageflow.api.storing import in_thread
from imageflow.errors import BadInput
from imageflow.listeners import Surroundings
from imageflow.model import Receipt

LISTENER = "http"
_PROXIED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")

_ATTRIBUTE = {"type": "string", "minLength": 1, "maxLength": 2048, "pattern": r"^[!-~]+$"}
EVENT_SCHEMA: dict[str, Any] = {
    "title": "CloudEvent",
    "description": "See cloudevents.io; source and id together name it. Of the source imageflow only imageflow sends.",
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"type": "string", "enum": ["1.0"]},
        "id": _ATTRIBUTE,
        "source": {**_ATTRIBUTE, "not": {"pattern": "^imageflow(:|$)"}},
        "type": {**_ATTRIBUTE, "maxLength": 255},
        "subject": _ATTRIBUTE,
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string", "enum": ["application/json"]},
        "data": {"description": "Any JSON."},
    },
    "additionalProperties": False,
    "patternProperties": {"^(?!data$)[a-z0-9]{1,20}$": {}},
}


def events_router(surroundings: Surroundings) -> APIRouter:
    """The operation, with its inbox and its token."""
    router = APIRouter(prefix="/v1", tags=["events"])
    own_token = surroundings.config.events.token

    def keep(mode: Mode, headers: list[tuple[str, str]], body: bytes) -> list[Receipt]:
        return surroundings.inbox.receive(events_of(mode, headers, body), listener=LISTENER)

    @router.post(
        "/events",
        status_code=202,
        operation_id="sendEvents",
        summary="Send CloudEvents",
        description="Structured, in a batch, or binary (attributes in ce- headers, data in the body). The answer comes "
        "after they are stored. With [events] token as Bearer token; where there is none, from this machine only.",
        response_model=KeptEvents,
        responses=accepted("They are stored; one that was there already is not `new`.")
        | refusals(400, 401, 403, 408, 413, 415, 429, 500, 503),
        openapi_extra={"requestBody": _body(), "security": [{"eventsToken": []}, {}]},
    )
    async def send_events(request: Request) -> KeptEvents:
        _authorise(request, own_token)
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        mode = mode_of(request.headers.get("content-type"), [name for name, _ in headers])
        if mode is None:
            raise Problem(
                415,
                "event.content-type",
                "this is no CloudEvent by its Content-Type, and has no ce- headers",
                hint=f"Content-Type: {STRUCTURED} or {BATCH}, or ce-specversion, ce-id, ce-source and ce-type",
            )
        body = await request.body()
        try:
            return kept(await in_thread(keep, mode, headers, body))
        except BadInput as error:
            raise malformed(error.message, hint=error.hint, subject="event") from None

    return router


def _authorise(request: Request, own_token: str | None) -> None:
    if own_token:
        given = bearer(request.headers.get("authorization"))
        if given is None or not hmac.compare_digest(own_token.encode(), given.encode("utf-8", "surrogateescape")):
            raise Problem(
                401,
                "event.unauthorized",
                "the bearer token is missing or not ours",
                hint="Authorization: Bearer and the value of [events] token",
                headers={"www-authenticate": 'Bearer realm="imageflow"'},
            )
    elif not _from_here(request):
        raise Problem(
            403,
            "event.forbidden",
            "only clients on this machine may post events here",
            hint="set [events] token, and send it as Bearer token",
        )


def _from_here(request: Request) -> bool:
    """Whether it comes from a client on this machine: not through a proxy, not from a page that renamed us."""
    if any(name in request.headers for name in _PROXIED):
        return False
    return _loopback(request.client.host if request.client else "") and _loopback(request.url.hostname or "")


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _body() -> dict[str, Any]:
    return {
        "required": True,
        "content": {
            STRUCTURED: {"schema": EVENT_SCHEMA},
            BATCH: {"schema": {"type": "array", "maxItems": MOST, "items": EVENT_SCHEMA}},
        },
    }
