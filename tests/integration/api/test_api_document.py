"""The OpenAPI document, against the server that serves it: whatever fits it or not is answered as it says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.examples import examples
from tests.samples.webhook_senders import SECRETS, SENDERS, Sender
from tests.servers.http_listener import AUTHORISED, Site, configured, serving
from tests.small.program import ROOT


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With the limits that it has by default: what is too much by the document fits into a body."""
    with serving(configured(tmp_path_factory.mktemp("roomy"))) as site:
        yield site


DOORS = ["/healthz", "/readyz", "/v1/events", *(f"/v1/webhooks/{name}" for name in SENDERS)]
API = [
    "/v1/builds",
    "/v1/builds/{build_id}",
    "/v1/builds/{build_id}/steps",
    "/v1/builds/{build_id}/log",
    "/v1/builds/{build_id}/resume",
    "/v1/builds/{build_id}/abort",
    "/v1/builds/{build_id}/cancel",
    "/v1/images",
    "/v1/images/{image}/versions",
    "/v1/images/{image}/versions/{digest}",
    "/v1/requests",
    "/v1/requests/{name}",
    "/v1/catalog",
]


PARTS = ("method", "url", "headers", "files", "data", "params", "auth", "cookies", "json")


@pytest.mark.parametrize("path", DOORS + API)
def test_the_document_is_the_truth(path: str, roomy: Site) -> None:
    """Whatever fits the document, or does not, is answered as it says; never 500."""
    load_all_checks()
    schema = schemathesis.openapi.from_url(f"{roomy.url}/openapi.json")
    operations = [one.ok() for one in schema.include(path=path).get_all_operations()]
    assert operations
    token = roomy.token("admin")
    # it takes the token that we send for one that it made up; test_without_a_token_nothing_is_said asks the same
    lost_marker = CHECKS.get_by_names(["positive_data_acceptance"])  # well-formed, of no build: 400, as everywhere
    own_token = CHECKS.get_by_names(["ignored_auth"])
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

    @examples(0.5, suppress_health_check=list(HealthCheck), database=None)
    @given(case=st.one_of(*(operation.as_strategy(mode) for operation in operations for mode in modes)))
    def fuzz(case: Any) -> None:
        if path == "/v1/events":
            case.headers["Authorization"] = AUTHORISED["authorization"]
        if path in API:
            case.headers.update(token)
        # what fits the document and is in no catalog is 400, too
        unknown = lost_marker if "marker" in (case.query or {}) or case.method == "PUT" else []
        case.call_and_validate(checks=CHECKS.get_all(), excluded_checks=[*unknown, *(own_token if path in API else [])])
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


def test_the_committed_document_is_the_one_that_is_served(site: Site) -> None:
    served = site.send("GET", "/openapi.json").json
    committed = json.loads((ROOT / "doc/openapi.json").read_text())
    assert committed.pop("info") | {"version": ""} == served.pop("info") | {"version": ""}
    assert committed == served, "'make sample' writes it again"
    assert served["openapi"].startswith("3.1.")


RESPONSES = {"202", "400", "401", "403", "408", "413", "415", "429", "500", "503"}


def test_the_document_declares_everything(site: Site) -> None:
    document = site.send("GET", "/openapi.json").json
    assert document["info"]["title"] == "imageflow" and document["info"]["version"]
    operations = {
        (path, method): what for path, methods in document["paths"].items() for method, what in methods.items()
    }
    assert {path for path, _ in operations} == {*DOORS, *API}
    for (path, method), operation in operations.items():
        assert operation["operationId"] and operation["tags"] and operation["summary"]
        if path in API:
            assert {"401", "403", "429", "503"} <= set(operation["responses"]) and operation["security"]
        elif method == "post":
            assert set(operation["responses"]) == RESPONSES - ({"403"} if path == "/v1/events" else set()), path
            assert operation["requestBody"]["required"]
