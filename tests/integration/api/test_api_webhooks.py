"""Webhooks over HTTP, to a real server: stored when they are signed right, refused otherwise, and no secret logged."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from tests.integration.api.api_site import event, refused_alone
from tests.samples.webhook_payloads import github_push
from tests.samples.webhook_senders import PLAIN_GITLAB, SECRETS, SENDERS, Sender, raw, standard_headers
from tests.servers.http_listener import JSON, Site, configured, serving


def every_sender(function: Any) -> Any:
    return pytest.mark.parametrize("sender", SENDERS.values(), ids=lambda sender: sender.name)(function)


@every_sender
def test_a_right_delivery_is_stored_once(site: Site, sender: Sender) -> None:
    site.refused()
    path, body = f"/v1/webhooks/{sender.name}", raw(sender.push())
    headers, before = sender.headers(body), site.stored()
    answer = site.send("POST", path, body, headers)
    assert answer.status == 202, answer.body
    [kept] = answer.json["events"]
    assert (kept["type"], kept["new"]) == ("git.push", True)
    if sender.names_it:
        assert kept["id"] == headers[sender.names_it]
    again = site.send("POST", path, body, headers)  # forges disable hooks that answer anything else than 2xx
    assert (again.status, again.json["events"]) == (202, [kept | {"new": False}])
    assert (site.stored(), site.refused()) == (before + 1, {})
    if sender.name in ("github", "gitea", "forgejo", "bitbucket"):  # whose signature says nothing of the id
        another = site.send("POST", path, body, sender.headers(body))  # another hook with the same secret
        assert (another.status, another.json["events"][0]["new"]) == (202, True)
        assert (site.stored(), site.refused()) == (before + 2, {})


@every_sender
def test_a_delivery_that_is_not_signed_right_is_refused(site: Site, sender: Sender) -> None:
    site.refused()
    path, body, before = f"/v1/webhooks/{sender.name}", raw(sender.push()), site.stored()
    right = sender.headers(body)
    without = {name: value for name, value in right.items() if name != sender.signature}
    wrong_secret = "whsec_AAAA" if SECRETS[sender.option].startswith("whsec_") else "another"
    for headers, sent, code in (
        (without, body, "webhook.missing-signature"),
        (sender.headers(body, secret=wrong_secret), body, "webhook.bad-signature"),
        *([(right, body + b" ", "webhook.bad-signature")] if sender.name != "gerrit" else []),
        *([(right, b"{", "webhook.bad-signature")] if sender.name != "gerrit" else []),
    ):
        answer = site.send("POST", path, sent, headers)
        assert SECRETS[sender.option].encode() not in answer.body
        refused_alone(site, before, answer, 401, code, path[4:])
        assert ("www-authenticate" in answer.headers) == (sender.name == "gerrit")


@every_sender
def test_a_delivery_that_is_no_payload_is_refused(site: Site, sender: Sender) -> None:
    site.refused()
    path, before = f"/v1/webhooks/{sender.name}", site.stored()
    for body in (
        b"{",
        b"[]",
        b'"x"',
        b"",
        b"\xff" if sender.name not in ("gitlab", "generic") else b"{}x",
        b"[" * 9999,
    ):
        answer = site.send("POST", path, body, sender.headers(body))
        refused_alone(site, before, answer, 400, "webhook.malformed", path[4:])
    too_large = b"x" * 66000
    answer = site.send("POST", path, too_large, sender.headers(too_large))
    refused_alone(site, before, answer, 413, "request.too-large", path[4:])
    body = raw(sender.push())
    answer = site.send("POST", path, body, sender.headers(body) | {"content-type": "application/xml"})
    refused_alone(site, before, answer, 415, "webhook.content-type", path[4:])


@every_sender
def test_a_delivery_without_an_id_is_refused(site: Site, sender: Sender) -> None:
    if sender.names_it is None or sender.signature == "webhook-signature":
        return  # the body names it; the signature is over it
    site.refused()
    path, body, before = f"/v1/webhooks/{sender.name}", raw(sender.push()), site.stored()
    for change in ({}, {sender.names_it: ""}, {sender.names_it: "x" * 201}):
        headers = {name: value for name, value in sender.headers(body).items() if name != sender.names_it} | change
        refused_alone(site, before, site.send("POST", path, body, headers), 400, "webhook.no-delivery-id", path[4:])


def test_a_stale_delivery_is_refused(site: Site) -> None:
    site.refused()
    for name in ("generic", "gitlab"):
        body = raw(SENDERS[name].push())
        headers = standard_headers(SECRETS[SENDERS[name].option], "old", body, time.time() - 600)
        answer = site.send("POST", f"/v1/webhooks/{name}", body, headers | {"content-type": "application/json"})
        refused_alone(site, site.stored(), answer, 401, "webhook.stale-signature", f"webhooks/{name}")


def test_without_a_secret_an_endpoint_is_closed_and_gitlab_may_send_its_token(tmp_path: Path) -> None:
    closed: dict[str, Any] = dict.fromkeys(SECRETS) | {"gitlab_token": PLAIN_GITLAB}
    with serving(configured(tmp_path, webhooks=closed)) as site:
        for sender in SENDERS.values():
            body, path = raw(sender.push()), f"/v1/webhooks/{sender.name}"
            if sender.name == "gitlab":
                headers = sender.headers(body, secret=PLAIN_GITLAB)
                assert site.send("POST", path, body, headers).status == 202
                assert site.send("POST", path, body, headers).json["events"][0]["new"] is False
                headers["x-gitlab-token"] += "x"
                refused_alone(site, 1, site.send("POST", path, body, headers), 401, "webhook.bad-signature", path[4:])
                continue
            before = site.stored()
            answer = site.send("POST", path, body, sender.headers(body))
            assert sender.option in answer.json["errors"][0]["detail"]
            refused_alone(site, before, answer, 403, "webhook.closed", path[4:])


def test_a_github_form(site: Site) -> None:
    body = urlencode({"payload": json.dumps(github_push())}).encode()
    sender = dataclasses.replace(SENDERS["github"], content_type="application/x-www-form-urlencoded")
    answer = site.send("POST", "/v1/webhooks/github", body, sender.headers(body))
    assert (answer.status, answer.json["events"][0]["type"]) == (202, "git.push"), answer.body
    site.refused()
    for bad in (b"payload", b"payload=%7B", b"payload=%ff", b"a=b", b"payload=1&payload=2", b"\xff=1", b"a=1&" * 99):
        answer = site.send("POST", "/v1/webhooks/github", bad, sender.headers(bad))
        refused_alone(site, site.stored(), answer, 400, "webhook.malformed", "webhooks/github")


@pytest.mark.parametrize("header", ["authorization: Bearer", "x-gerrit-token:"])
def test_gerrits_token_in_other_headers(site: Site, header: str) -> None:
    name, _, scheme = header.partition(":")
    body = raw(SENDERS["gerrit"].push())
    value = f"{scheme} {SECRETS['gerrit_token']}".strip()
    answer = site.send("POST", "/v1/webhooks/gerrit", body, {name: value, "content-type": "text/plain; charset=UTF-8"})
    assert answer.status == 202, answer.body


def test_gerrits_client_asks_first_and_then_sends_the_password_of_its_url(site: Site) -> None:
    url = site.url.replace("://", f"://imageflow:{SECRETS['gerrit_token']}@")
    body = raw(SENDERS["gerrit"].push())
    done = requests.post(
        f"{url}/v1/webhooks/gerrit", data=body, headers={"content-type": "application/json"}, timeout=30
    )
    assert done.status_code == 202


def test_nothing_secret_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for sender in SENDERS.values():
            body = raw(sender.push())
            headers = sender.headers(body)
            site.send("POST", f"/v1/webhooks/{sender.name}?token=query-secret", body, headers)
            site.send("POST", f"/v1/webhooks/{sender.name}", body + b" ", headers)
            assert headers[sender.signature] not in caplog.text
        site.send("POST", "/v1/events", event(), JSON | {"authorization": "Bearer a-secret"})
    assert "req-" in caplog.text and "/v1/webhooks/github" in caplog.text
    for secret in [*SECRETS.values(), "a-secret", "query-secret"]:
        assert secret not in caplog.text
