"""The HTTP interface as its tests find it: a server with small limits, events to post, and what a refusal leaves."""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.servers.http_listener import TOKEN, Answer, Site

EVENT = {"specversion": "1.0", "source": "test", "type": "t", "data": {"a": 1}}


def event(**changes: Any) -> bytes:
    return json.dumps({**EVENT, "id": str(uuid.uuid4()), **changes}).encode()


def refused_alone(site: Site, before: int, answer: Answer, status: int, code: str, endpoint: str) -> None:
    """Refused with that status and code, nothing stored, and counted once."""
    assert (answer.status, answer.code) == (status, code), answer.body
    assert site.stored() == before
    assert site.refused() == {(endpoint, code.rpartition(".")[2]): 1}


HEAD = (
    b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/cloudevents+json\r\n"
    b"Authorization: Bearer %s\r\n" % TOKEN.encode()
)
