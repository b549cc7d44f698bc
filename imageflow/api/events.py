"""POST /v1/events: CloudEvents 1.0 over HTTP."""

from __future__ import annotations

import hmac
import logging
import re
from typing import Any

from fastapi import APIRouter, Request, Response

from imageflow.api.envelopes import MOST, Mode, events_of, mode_of
from imageflow.api.gate import rate_of
from imageflow.api.problems import RequestProblem, malformed
from imageflow.api.responses import ID_HEADER, KeptEvents, accepted, kept, refusals
from imageflow.api.signatures import bearer
from imageflow.api.storing import in_thread
from imageflow.errors import BadInput
from imageflow.events import door
from imageflow.events.cloudevent import BATCH, STRUCTURED
from imageflow.listeners import Surroundings
from imageflow.model import Receipt

LISTENER = "http"
LOG = logging.getLogger(__name__)
_ORIGIN = re.compile(r"[A-Za-z0-9._:-]{1,255}", re.ASCII)

_ATTRIBUTE = {"type": "string", "minLength": 1, "maxLength": 2048, "pattern": r"^[!-~]+$"}
_OPTIONAL = {**_ATTRIBUTE, "type": ["string", "null"], "description": "null is the same as none."}
_IGNORED = {"type": ["string", "null"], "minLength": 1, "description": "null is the same as none."}
EVENT_SCHEMA: dict[str, Any] = {
    "title": "CloudEvent",
    "description": "See cloudevents.io; source and id together identify it. Only imageflow itself may use the source imageflow.",
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"type": "string", "enum": ["1.0"]},
        "id": _ATTRIBUTE,
        "source": {**_ATTRIBUTE, "not": {"pattern": "^imageflow(:|$)"}},
        "type": {**_ATTRIBUTE, "maxLength": 255},
        "subject": _OPTIONAL,
        "time": {"type": ["string", "null"], "format": "date-time"},
        "datacontenttype": _IGNORED,
        "dataschema": _IGNORED,
        "data": {"description": "Any JSON; text when datacontenttype is not JSON."},
    },
    "additionalProperties": False,
    "patternProperties": {"^(?!data$)[a-z0-9]{1,20}$": {}},
}


def events_router(surroundings: Surroundings) -> APIRouter:
    """The operation, with its inbox and token."""
    router = APIRouter(prefix="/v1", tags=["events"])
    own_token = door.token(surroundings.config)
    LOG.info(
        "POST /v1/events takes the token in %s ('imageflow event token' prints it)", door.place(surroundings.config)
    )
    rate = rate_of(surroundings.config.api.rate)
    a_minute = max(1, rate.amount * 60 // rate.get_expiry())

    def keep(mode: Mode, headers: list[tuple[str, str]], body: bytes) -> list[Receipt]:
        return surroundings.inbox.receive(events_of(mode, headers, body), listener=LISTENER)

    @router.post(
        "/events",
        status_code=202,
        operation_id="sendEvents",
        summary="Send CloudEvents",
        description="Structured, in a batch, or binary (attributes in ce- headers, data in the body). The answer comes "
        "after they are stored. Requires the token of 'imageflow event token' as Bearer token, or as access_token in the query.",
        response_model=KeptEvents,
        responses=accepted("They are stored; one that was stored before is not `new`.")
        | refusals(400, 401, 408, 413, 415, 429, 500, 503),
        openapi_extra={"requestBody": _body(), "security": [{"eventsToken": []}]},
    )
    async def send_events(request: Request) -> KeptEvents:
        _authorise(request, own_token)
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        mode = mode_of(request.headers.get("content-type"), [name for name, _ in headers])
        if mode is None:
            raise RequestProblem(
                415,
                "event.content-type",
                "this is not a CloudEvent by its Content-Type, and has no ce- headers",
                hint=f"Content-Type: {STRUCTURED} or {BATCH}, or ce-specversion, ce-id, ce-source and ce-type",
            )
        body = await request.body()
        try:
            return kept(await in_thread(keep, mode, headers, body))
        except BadInput as error:
            raise malformed(error.message, hint=error.hint, subject="event") from None

    @router.options(
        "/events",
        operation_id="askToSendEvents",
        summary="Ask whether CloudEvents may be sent here",
        description="The handshake of CloudEvents' web hooks, which Azure Event Grid begins with. The sender named in "
        "WebHook-Request-Origin may send; each event still needs the token.",
        responses=refusals(429, 500)
        | {200: {"description": "WebHook-Allowed-Origin names who may send.", "headers": ID_HEADER}},
        response_class=Response,
    )
    async def ask_to_send(request: Request) -> Response:
        headers = {"allow": "OPTIONS, POST"}
        origin = request.headers.get("webhook-request-origin", "")
        if _ORIGIN.fullmatch(origin):
            headers |= {"webhook-allowed-origin": origin, "webhook-allowed-rate": str(a_minute)}
        return Response(headers=headers)

    return router


def _authorise(request: Request, own_token: str) -> None:
    given = bearer(request.headers.get("authorization")) or request.query_params.get("access_token")
    if given is None or not hmac.compare_digest(own_token.encode(), given.encode("utf-8", "surrogateescape")):
        raise RequestProblem(
            401,
            "event.unauthorized",
            "the bearer token is missing or wrong; clients on this machine need it, too",
            hint="Authorization: Bearer TOKEN; where imageflow serves, 'imageflow event token' prints it",
            headers={"www-authenticate": 'Bearer realm="imageflow"'},
        )


def _body() -> dict[str, Any]:
    return {
        "required": True,
        "content": {
            STRUCTURED: {"schema": EVENT_SCHEMA},
            BATCH: {"schema": {"type": "array", "maxItems": MOST, "items": EVENT_SCHEMA}},
        },
    }
