"""Gitea's and Forgejo's webhooks: GitHub's payloads, signatures of their own. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from imageflow.api.forges.delivery import Forge
from imageflow.api.forges.github import delivery_id, read
from imageflow.api.signatures import hmac_hex


def _gitea(secret: str, headers: Mapping[str, str], raw: bytes) -> str:
    return hmac_hex(secret, raw, headers.get("x-gitea-signature"), header="X-Gitea-Signature")


def _forgejo(secret: str, headers: Mapping[str, str], raw: bytes) -> str:
    return hmac_hex(secret, raw, headers.get("x-forgejo-signature"), header="X-Forgejo-Signature")


GITEA = Forge(
    name="gitea",
    title="Gitea",
    option="gitea_secret",
    verify=_gitea,
    delivery_id=delivery_id,
    read=read,
    signature_headers=("X-Gitea-Signature",),
    id_headers=("X-Gitea-Delivery",),
    event_header="X-Gitea-Event",
)
FORGEJO = Forge(
    name="forgejo",
    title="Forgejo",
    option="forgejo_secret",
    verify=_forgejo,
    delivery_id=delivery_id,
    read=read,
    signature_headers=("X-Forgejo-Signature",),
    id_headers=("X-Forgejo-Delivery",),
    event_header="X-Forgejo-Event",
)
