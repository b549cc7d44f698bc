"""Posts of Gerrit's webhooks plugin: its stream events, with a token, because it can't sign. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

from imageflow.api.forges.changes import MOST
from imageflow.api.forges.delivery import JSON, Forge, WebhookDelivery, mapping, person, trimmed
from imageflow.api.signatures import basic_password, bearer, token
from imageflow.errors import BadInput
from imageflow.listeners import gerrit_lines
from imageflow.model import Event


def read(delivery: WebhookDelivery) -> list[Event]:
    """The events of a delivery, one per ref; raises BadInput. The SSH listener gets the same ones, with the same ids."""
    mapping(delivery.body, "the payload")
    try:
        events, _ = gerrit_lines.read(delivery.raw)
    except BadInput as error:
        raise BadInput(error.message.replace("the line", "the payload"), hint=error.hint) from None
    if not 0 < len(events) <= MOST:
        raise BadInput(f"the payload has changes of {len(events)} refs, 1 to {MOST} are accepted")
    return [_kept(event) for event in events]


def _kept(event: Event) -> Event:
    """Without e-mail addresses."""
    data = event.data
    if isinstance(data, dict) and "pusher" in data:
        return dataclasses.replace(event, data=data | {"pusher": person(data["pusher"])})
    return dataclasses.replace(event, data=trimmed(data))


def _verify(secret: str, headers: Mapping[str, str], _raw: bytes) -> None:
    authorization = headers.get("authorization")
    token(
        secret,
        {
            "Authorization": bearer(authorization) or basic_password(authorization),
            "X-Gerrit-Token": headers.get("x-gerrit-token"),
        },
    )


def _delivery_id(_headers: Mapping[str, str], raw: bytes) -> str:
    # the request has no id: the body holds the time, and a retry sends the same body
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


GERRIT = Forge(
    name="gerrit",
    title="Gerrit (its webhooks plugin)",
    option="gerrit_token",
    verify=_verify,
    delivery_id=_delivery_id,
    read=read,
    signature_headers=("Authorization", "X-Gerrit-Token"),
    id_headers=(),
    event_header=None,
    content_types=(JSON, "text/plain", ""),
    challenge='Basic realm="imageflow"',  # the plugin's client sends the URL's password only when asked
)
