"""Gitea's, Forgejo's and Gogs' webhooks: GitHub's payloads, with their own signatures. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from imageflow.api.forges.delivery import Forge
from imageflow.api.forges.github import delivery_id, read
from imageflow.api.signatures import hmac_hex


def _verified_by(*forges: str) -> Callable[[str, Mapping[str, str], bytes], str]:
    """The check of a forge whose older versions, and the forge it comes from, send only the headers of the latter."""

    def verify(secret: str, headers: Mapping[str, str], raw: bytes) -> str:
        sender = next((name for name in forges if headers.get(f"x-{name.lower()}-event")), forges[0])
        header = f"X-{sender}-Signature"
        return hmac_hex(secret, raw, headers.get(header.lower()), header=header)

    return verify


GITEA = Forge(
    name="gitea",
    title="Gitea, or Gogs",
    option="gitea_secret",
    verify=_verified_by("Gitea", "Gogs"),
    delivery_id=delivery_id,
    read=read,
    signature_headers=("X-Gitea-Signature", "X-Gogs-Signature"),
    id_headers=("X-Gitea-Delivery", "X-Gogs-Delivery"),
    event_header="X-Gitea-Event",
)
FORGEJO = Forge(
    name="forgejo",
    title="Forgejo",
    option="forgejo_secret",
    verify=_verified_by("Forgejo", "Gitea", "Gogs"),
    delivery_id=delivery_id,
    read=read,
    signature_headers=("X-Forgejo-Signature", "X-Gitea-Signature"),
    old_headers=("X-Gogs-Signature",),
    id_headers=("X-Forgejo-Delivery", "X-Gitea-Delivery"),
    event_header="X-Forgejo-Event",
)
