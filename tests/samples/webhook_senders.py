"""Forges from their own side: how each signs a webhook, and with which secret."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from standardwebhooks.webhooks import Webhook

from tests.samples.webhook_payloads import (
    bitbucket_push,
    generic_push,
    gerrit_ref_updated,
    gitea_push,
    github_push,
    gitlab_push,
)

SECRETS = {
    "github_secret": "It's a Secret to Everybody",
    "gitlab_token": "whsec_" + base64.b64encode(b"gitlab signing key of 32 bytes..").decode(),
    "gitea_secret": "gitea-secret",
    "forgejo_secret": "forgejo-secret",
    "bitbucket_secret": "bitbucket-secret",
    "gerrit_token": "gerrit-token",
    "generic_secret": "a plain secret",
}


PLAIN_GITLAB = "a plain gitlab token"


def sha256(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def standard_headers(secret: str, name: str, body: bytes, when: float | None = None) -> dict[str, str]:
    """What a sender that follows standardwebhooks.com adds."""
    moment = datetime.datetime.fromtimestamp(time.time() if when is None else when, datetime.UTC)
    key: str | bytes = secret if secret.startswith("whsec_") else secret.encode()
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(key).sign(name, moment, body.decode()),
    }


def _github(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    return {
        "user-agent": "GitHub-Hookshot/044aadd",
        "x-github-delivery": name,
        "x-github-event": event,
        "x-github-hook-id": "292430182",
        "x-hub-signature-256": f"sha256={sha256(secret, body)}",
    }


def _gitea(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    signature = sha256(secret, body)
    headers = {"x-hub-signature": "sha1=" + hmac.new(secret.encode(), body, hashlib.sha1).hexdigest()}
    headers["x-hub-signature-256"] = f"sha256={signature}"
    for family in ("gitea", "gogs", "github"):
        headers |= {f"x-{family}-delivery": name, f"x-{family}-event": event, f"x-{family}-event-type": event}
    return headers | {"x-gitea-signature": signature, "x-gogs-signature": signature}


def _forgejo(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    headers = _gitea(secret, name, event, body) | {"x-forgejo-delivery": name, "x-forgejo-event": event}
    return headers | {"x-forgejo-event-type": event, "x-forgejo-signature": sha256(secret, body)}


def _gitlab(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    headers = {
        "x-gitlab-event": event,
        "x-gitlab-instance": "https://gitlab.example.org",
        "x-gitlab-webhook-uuid": "02affd2d-2cba-4033-917d-ec22d5dc4b38",
        "x-gitlab-event-uuid": "13792a34-cac6-4fda-95a8-c58e00a3954e",
        "idempotency-key": name,
    }
    if secret.startswith("whsec_"):
        return headers | standard_headers(secret, name, body)
    return headers | {"x-gitlab-token": secret}


def _bitbucket(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    return {
        "x-event-key": event,
        "x-request-uuid": name,
        "x-hook-uuid": "fd9aa3cf-9bd3-4a3b-9e4f-0f1b9a7a3d2e",
        "x-attempt-number": "1",
        "x-hub-signature": f"sha256={sha256(secret, body)}",
    }


def _gerrit(secret: str, _name: str, _event: str, _body: bytes) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"gerrit:{secret}".encode()).decode()}


def _generic(secret: str, name: str, _event: str, body: bytes) -> dict[str, str]:
    return standard_headers(secret, name, body)


@dataclass(frozen=True)
class Sender:
    """A forge, from its own side."""

    name: str
    option: str
    sign: Callable[[str, str, str, bytes], dict[str, str]]  # (secret, delivery id, event, body) -> headers
    event: str  # of the push below
    push: Callable[[], dict[str, Any]]  # another one each time
    signature: str  # the header
    names_it: str | None  # the header with the delivery id
    content_type: str = "application/json"

    def headers(self, body: bytes, name: str | None = None, event: str = "", secret: str = "") -> dict[str, str]:
        signed = self.sign(secret or SECRETS[self.option], name or str(uuid.uuid4()), event or self.event, body)
        return signed | {"content-type": self.content_type}


SENDERS = {
    sender.name: sender
    for sender in (
        Sender("github", "github_secret", _github, "push", github_push, "x-hub-signature-256", "x-github-delivery"),
        Sender("gitlab", "gitlab_token", _gitlab, "Push Hook", gitlab_push, "webhook-signature", "webhook-id"),
        Sender("gitea", "gitea_secret", _gitea, "push", gitea_push, "x-gitea-signature", "x-gitea-delivery"),
        Sender("forgejo", "forgejo_secret", _forgejo, "push", gitea_push, "x-forgejo-signature", "x-forgejo-delivery"),
        Sender(
            "bitbucket",
            "bitbucket_secret",
            _bitbucket,
            "repo:push",
            bitbucket_push,
            "x-hub-signature",
            "x-request-uuid",
        ),
        Sender("gerrit", "gerrit_token", _gerrit, "", gerrit_ref_updated, "authorization", None),
        Sender("generic", "generic_secret", _generic, "", generic_push, "webhook-signature", "webhook-id"),
    )
}


def raw(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload).encode()
