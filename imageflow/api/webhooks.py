"""POST /v1/webhooks/FORGE: webhooks that forges send about their repositories."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request

from imageflow.api.events import LISTENER
from imageflow.api.forges import FORGES
from imageflow.api.forges.delivery import FORM, JSON, Forge, WebhookDelivery
from imageflow.api.problems import RequestProblem, malformed
from imageflow.api.responses import KeptEvents, accepted, kept, refusals
from imageflow.api.signatures import SIGNING_PREFIX, BadSignature, standard_key
from imageflow.api.storing import in_thread
from imageflow.errors import BadInput
from imageflow.events.cloudevent import media_type
from imageflow.events.reading import parse_json
from imageflow.listeners import Inbox, Surroundings
from imageflow.model import Receipt

_ID_LENGTH = 200  # characters of a delivery's id


def webhooks_router(surroundings: Surroundings) -> APIRouter:
    """One operation per forge; raises ConfigError for an invalid secret."""
    router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
    for forge in FORGES:
        secret: str | None = getattr(surroundings.config.webhooks, forge.option)
        if secret and secret.startswith(SIGNING_PREFIX):
            standard_key(secret, f"[webhooks] {forge.option}")
        router.add_api_route(
            f"/{forge.name}",
            _operation(forge, secret, surroundings.inbox),
            methods=["POST"],
            status_code=202,
            operation_id=f"receive{forge.name.capitalize()}Webhook",
            summary=f"Webhook of {forge.title}",
            description=f"Verified with [webhooks] {forge.option} over the raw body. A push becomes the event "
            "git.push, a tag git.tag, a deletion git.delete, a merged change git.merge; anything else keeps its own type.",
            response_model=KeptEvents,
            responses=accepted("It is stored; one that was delivered before is not `new`.")
            | refusals(400, 401, 403, 408, 413, 415, 429, 500, 503),
            openapi_extra=_extra(forge),
        )
    return router


def _operation(forge: Forge, secret: str | None, inbox: Inbox) -> Callable[[Request], Awaitable[KeptEvents]]:
    def keep(request: Request, raw: bytes) -> list[Receipt]:
        return _keep(forge, secret or "", inbox, dict(request.headers), raw)

    async def receive(request: Request) -> KeptEvents:
        if not secret:
            raise RequestProblem(
                403,
                "webhook.closed",
                f"no secret is configured for {forge.title}",
                hint=f"set [webhooks] {forge.option} to the secret configured there",
            )
        media = media_type(request.headers.get("content-type"))
        if media not in forge.content_types:
            known = " or ".join(kind for kind in forge.content_types if kind)
            raise RequestProblem(415, "webhook.content-type", f"the Content-Type is not {known}")
        if not any(request.headers.get(name) for name in forge.accepts):  # its body need not even come
            missing = f"the header {' or '.join(forge.accepts)} is missing"
            raise _unproven(forge, BadSignature("missing-signature", missing))
        raw = await request.body()
        return kept(await in_thread(keep, request, raw))

    return receive


def _keep(forge: Forge, secret: str, inbox: Inbox, headers: dict[str, str], raw: bytes) -> list[Receipt]:
    """Verify first, then read, then store."""
    try:
        proof = forge.verify(secret, headers, raw)
    except BadSignature as error:
        raise _unproven(forge, error) from None
    name = forge.delivery_id(headers, raw)
    if not name or len(name) > _ID_LENGTH:
        raise RequestProblem(
            400,
            "webhook.no-delivery-id",
            f"the delivery has no usable id in {' or '.join(forge.id_headers)}",
            hint="without one a redelivery could not be recognised",
        )
    try:
        events = forge.read(WebhookDelivery(name, headers, _body(headers, raw), raw))
        return inbox.receive(events, listener=LISTENER, proof=proof)  # forges stop sending after other answers than 2xx
    except BadInput as error:
        raise malformed(error.message, hint=error.hint, subject="webhook") from None


def _unproven(forge: Forge, error: BadSignature) -> RequestProblem:
    return RequestProblem(
        401,
        f"webhook.{error.kind}",
        str(error),
        hint=f"compare [webhooks] {forge.option} with the secret at the sender",
        headers={"www-authenticate": forge.challenge} if forge.challenge else {},
    )


def _body(headers: dict[str, str], raw: bytes) -> Any:
    if media_type(headers.get("content-type")) != FORM:
        return parse_json(raw)
    try:
        fields = parse_qs(raw.decode("ascii"), strict_parsing=True, max_num_fields=10, errors="strict")
    except ValueError:
        raise BadInput("the body is not a form") from None
    if len(fields.get("payload", [])) != 1:
        raise BadInput("the form has no field 'payload', or several")
    return parse_json(fields["payload"][0].encode("utf-8", "surrogatepass"), "the field 'payload'")


def _extra(forge: Forge) -> dict[str, Any]:
    """Headers and body in the OpenAPI document."""
    named = [
        *((name, "Authenticates the sender.", len(forge.signature_headers) == 1) for name in forge.signature_headers),
        *(
            (
                name,
                "Identifies the delivery; the same one again is answered like the first, and is not `new`.",
                len(forge.id_headers) == 1,
            )
            for name in forge.id_headers
        ),
        *(((forge.event_header, "What happened.", False),) if forge.event_header else ()),
    ]
    if "webhook-signature" in forge.signature_headers:
        named.append(("webhook-timestamp", "When it was sent: seconds since the epoch.", forge.name == "generic"))
    parameters = [
        {"in": "header", "name": name, "required": required, "description": words, "schema": {"type": "string"}}
        for name, words, required in named
        if name != "Authorization"  # OpenAPI has security schemes for it
    ]
    payload = {"type": "object", "description": f"The payload as {forge.title} sends it."}
    form = {"type": "object", "required": ["payload"], "properties": {"payload": {"type": "string"}}}
    bodies = {
        kind: {"schema": form if kind == FORM else payload} for kind in forge.content_types if kind in (JSON, FORM)
    }
    extra: dict[str, Any] = {"parameters": parameters, "requestBody": {"required": True, "content": bodies}}
    if forge.challenge:
        extra["security"] = [{"gerritToken": []}, {"gerritBasic": []}, {}]
    return extra
