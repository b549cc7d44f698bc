"""The HTTP interface as its tests find it: a server with small limits, events to post, and what a refusal leaves."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.http_server import Answer, Site, configured, serving

EVENT = {"specversion": "1.0", "source": "test", "type": "t", "data": {"a": 1}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    config = configured(tmp_path_factory.mktemp("api"), api={"max_body": 64, "timeout": 2.0})
    with serving(config) as site:
        yield site


def event(**changes: Any) -> bytes:
    return json.dumps({**EVENT, "id": str(uuid.uuid4()), **changes}).encode()


def refused_alone(site: Site, before: int, answer: Answer, status: int, code: str, endpoint: str) -> None:
    """Refused with that status and code, nothing stored, and counted once."""
    assert (answer.status, answer.code) == (status, code), answer.body
    assert site.stored() == before
    assert site.refused() == {(endpoint, code.rpartition(".")[2]): 1}


HEAD = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/cloudevents+json\r\n"
