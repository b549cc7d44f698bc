"""Webhooks of any other sender, signed as standardwebhooks.com specifies. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from imageflow.api.forges.delivery import Forge, WebhookDelivery, inner, mapping, moment, name_of, text
from imageflow.api.signatures import standard
from imageflow.model import Event


def read(delivery: WebhookDelivery) -> list[Event]:
    """The event that the body describes: {"type", "timestamp", "data"}, plus our own fields {"source", "subject"}."""
    body = mapping(delivery.body, "the body")
    return [
        Event(
            source=text(body, "source") or "webhook",
            id=delivery.id,
            type=name_of(text(body, "type"), "the body's field 'type'"),
            subject=text(body, "subject"),
            time=moment(inner(body, "timestamp")),
            data=body.get("data"),
        )
    ]


def _verify(secret: str, headers: Mapping[str, str], raw: bytes) -> None:
    standard(secret, raw, headers)


def _delivery_id(headers: Mapping[str, str], _raw: bytes) -> str | None:
    return headers.get("webhook-id")


GENERIC = Forge(
    name="generic",
    title="any sender that follows standardwebhooks.com",
    option="generic_secret",
    verify=_verify,
    delivery_id=_delivery_id,
    read=read,
    signature_headers=("webhook-signature",),
    id_headers=("webhook-id",),
    event_header=None,
)
