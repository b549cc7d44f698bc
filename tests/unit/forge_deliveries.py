"""Deliveries of forges, signed by them, as our reader of each forge takes them."""

from __future__ import annotations

import json
from typing import Any

from imageflow.api.forges import FORGES
from imageflow.api.forges.delivery import WebhookDelivery
from imageflow.events.reading import parse_json
from imageflow.model import Event
from tests.samples.webhook_senders import SENDERS

BY_NAME = {forge.name: forge for forge in FORGES}


def deliver(forge: str, event: str, payload: Any, name: str = "D-1") -> list[Event]:
    sender = SENDERS[forge]
    body = json.dumps(payload).encode()
    return BY_NAME[forge].read(WebhookDelivery(name, sender.headers(body, name, event), parse_json(body), body))
