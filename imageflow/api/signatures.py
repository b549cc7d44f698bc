"""Verifies that a webhook comes from its claimed sender: signatures over the raw bytes, compared in constant time. Pure.

Each check returns the proof of the delivery: the SHA-256 of a signature that covers the body but no time, so
that the same one again is known whatever its delivery id; None where the signature covers the id itself, or
there is none.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Literal

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from imageflow.errors import ConfigError

Headers = Mapping[str, str]  # names in lower case
SIGNING_PREFIX = "whsec_"


class BadSignature(Exception):
    """A webhook whose sender does not know the secret."""

    def __init__(self, kind: Literal["missing-signature", "bad-signature", "stale-signature"], detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def hmac_hex(
    secret: str, raw: bytes, given: str | None, *, header: str, prefix: str = "", algorithm: str = "sha256"
) -> str:
    """An HMAC in hex digits, as GitHub, Gitea, Forgejo, Gogs and Bitbucket send it; -> the proof."""
    if not given:
        raise BadSignature("missing-signature", f"the header {header} is missing")
    expected = hmac.new(secret.encode(), raw, algorithm).hexdigest()
    if not _equal(f"{prefix}{expected}", given.lower()):
        raise BadSignature("bad-signature", f"the signature in {header} does not match this body and our secret")
    return hashlib.sha256(expected.encode()).hexdigest()


def token(secret: str, candidates: Mapping[str, str | None]) -> None:
    """A plain token in one of these headers."""
    given = {name: value for name, value in candidates.items() if value}
    if not given:
        raise BadSignature("missing-signature", f"the header {' or '.join(candidates)} is missing")
    if True not in [_equal(secret, value) for value in given.values()]:
        raise BadSignature("bad-signature", f"the token in {' or '.join(given)} is wrong")


def standard(secret: str, raw: bytes, headers: Headers) -> None:
    """Standard Webhooks: the signature covers the id, the time and the body."""
    missing = [name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if not headers.get(name)]
    if missing:
        raise BadSignature("missing-signature", f"the header {' and '.join(missing)} is missing")
    try:
        standard_key(secret, "the secret").verify(raw, dict(headers), json_parse=False)
    except WebhookVerificationError as error:
        if "too old" in str(error) or "too new" in str(error):
            raise BadSignature("stale-signature", "webhook-timestamp is more than five minutes off our clock") from None
        raise BadSignature("bad-signature", "webhook-signature does not match this message and our secret") from None
    except ValueError:  # what the library does not expect: no base64, no comma, a body that is not text
        raise BadSignature("bad-signature", "webhook-signature can't be read") from None


def standard_key(secret: str, where: str) -> Webhook:
    """The key of a secret (whsec_ and base64, or plain text); raises ConfigError that names `where`."""
    if not secret.startswith(SIGNING_PREFIX):
        return Webhook(secret.encode())
    text = secret.removeprefix(SIGNING_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ConfigError(f"{where}: what follows whsec_ is not base64", hint="copy it again from the sender")
    return Webhook(key)


def basic_password(authorization: str | None) -> str | None:
    """The password in an Authorization header of the scheme Basic."""
    scheme, _, value = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2] or None
    except ValueError:
        return None


def bearer(authorization: str | None) -> str | None:
    """The token in an Authorization header of the scheme Bearer."""
    scheme, _, value = (authorization or "").partition(" ")
    return value.strip() or None if scheme.lower() == "bearer" else None


def _equal(ours: str, given: str) -> bool:
    return hmac.compare_digest(ours.encode("utf-8", "surrogateescape"), given.encode("utf-8", "surrogateescape"))
