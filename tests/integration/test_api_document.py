"""The OpenAPI document, against the server that serves it: whatever fits it or not is answered as it says."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.http_server import Site, configured, serving
from tests.integration.api_site import *  # noqa: F403 - its fixtures
from tests.webhook_senders import SECRETS, SENDERS, Sender


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With the limits that it has by default: what is too much by the document fits into a body."""
    with serving(configured(tmp_path_factory.mktemp("roomy"))) as site:
        yield site


OPERATIONS = ["/healthz", "/v1/events", *(f"/v1/webhooks/{name}" for name in SENDERS)]


PARTS = ("method", "url", "headers", "files", "data", "params", "auth", "cookies", "json")


@pytest.mark.parametrize("path", OPERATIONS)
def test_the_document_is_the_truth(path: str, roomy: Site) -> None:
    """Whatever fits the document, or does not, is answered as it says; never 500."""
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{roomy.url}/openapi.json")
    [operation] = [one.ok() for one in schema.include(path=path).get_all_operations()]

    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        case=st.one_of(operation.as_strategy(GenerationMode.POSITIVE), operation.as_strategy(GenerationMode.NEGATIVE))
    )
    def fuzz(case: Any) -> None:
        case.call_and_validate(checks=CHECKS.get_all())
        sender = SENDERS.get(path.rpartition("/")[2])
        if sender is not None:
            _signed(roomy, sender, case)

    fuzz()


def _signed(site: Site, sender: Sender, case: Any) -> None:
    """The same request, by somebody who knows the secret."""
    parts = {name: part for name, part in case.as_transport_kwargs(base_url=site.url).items() if name in PARTS}
    request = requests.Request(**parts).prepare()
    body = request.body if isinstance(request.body, bytes) else (request.body or "").encode()
    try:
        request.headers.update(sender.sign(SECRETS[sender.option], str(uuid.uuid4()), sender.event, body))
    except UnicodeDecodeError:
        return
    with requests.Session() as session:
        answer = session.send(request, timeout=30)
    assert answer.status_code in (202, 400, 405, 413, 415), answer.text
    assert "x-openstack-request-id" in answer.headers


RESPONSES = {"202", "400", "401", "403", "408", "413", "415", "429", "500", "503"}


def test_the_document_declares_everything(site: Site) -> None:
    document = site.send("GET", "/openapi.json").json
    assert document["info"]["title"] == "imageflow" and document["info"]["version"]
    operations = {
        (path, method): what for path, methods in document["paths"].items() for method, what in methods.items()
    }
    assert {path for path, _ in operations} == {"/healthz", "/v1/events"} | {f"/v1/webhooks/{name}" for name in SENDERS}
    for (path, method), operation in operations.items():
        assert operation["operationId"] and operation["tags"] and operation["summary"]
        if method == "post":
            assert set(operation["responses"]) == RESPONSES, path
            assert operation["requestBody"]["required"]
