"""Who proves to be a forge: signatures, tokens and passwords, in each way that forges have."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.api.signatures import BadSignature, basic_password, hmac_hex, standard, standard_key, token
from imageflow.errors import ConfigError
from tests.examples import examples
from tests.samples.webhook_senders import PLAIN_GITLAB, SECRETS, SENDERS, Sender, raw, sha256, standard_headers
from tests.unit.forge_deliveries import BY_NAME


@pytest.mark.parametrize("sender", SENDERS.values(), ids=lambda sender: sender.name)
def test_only_the_right_signature_proves(sender: Sender) -> None:
    forge, secret = BY_NAME[sender.name], SECRETS[sender.option]
    body = raw(sender.push())
    headers = sender.headers(body, "D")
    proof = forge.verify(secret, headers, body)
    assert (proof is not None) == (sender.name in ("github", "gitea", "forgejo", "bitbucket"))
    without = {name: value for name, value in headers.items() if name != sender.signature}
    for bad_headers, bad_body, bad_secret, kind in (
        (without, body, secret, "missing-signature"),
        (headers | {sender.signature: ""}, body, secret, "missing-signature"),
        (headers | {sender.signature: headers[sender.signature][:-3] + "abc"}, body, secret, "bad|missing"),
        (headers | {sender.signature: "é" * 64}, body, secret, "bad|missing"),
        (headers, body, secret + "x" if not secret.startswith("whsec_") else "whsec_AAAA", "bad-signature"),
        *([(headers, body + b" ", secret, "bad-signature")] if sender.name != "gerrit" else []),
    ):
        with pytest.raises(BadSignature) as refused:
            forge.verify(bad_secret, bad_headers, bad_body)
        assert re.match(kind, refused.value.kind), (kind, refused.value.kind)
        assert secret not in str(refused.value)


def test_the_proof_of_a_signature_does_not_depend_on_how_it_is_written() -> None:
    signature = sha256("s", b"body")
    proofs = {
        hmac_hex("s", b"body", f"sha256={written}", header="X", prefix="sha256=")
        for written in (signature, signature.upper())
    }
    assert len(proofs) == 1


@pytest.mark.parametrize("age", [-400, 400])
def test_an_old_or_future_message_is_stale(age: float) -> None:
    headers = standard_headers("s", "D", b"{}", time.time() + age)
    with pytest.raises(BadSignature) as refused:
        standard("s", b"{}", headers)
    assert refused.value.kind == "stale-signature"


@examples(2)
@given(
    signature=st.text(max_size=40),
    when=st.one_of(st.text(max_size=20), st.just(str(int(time.time())))),
    body=st.binary(max_size=20),
)
def test_any_signature_is_bad(signature: str, when: str, body: bytes) -> None:
    for given_signature in (signature, f"v1,{signature}", f"v1,{base64.b64encode(signature.encode()).decode()} x"):
        headers = {"webhook-id": "D", "webhook-timestamp": when, "webhook-signature": given_signature}
        with pytest.raises(BadSignature):
            standard("s", body, headers)


def test_a_token_is_compared_whole() -> None:
    token("s", {"A": None, "B": "s"})
    for given_token in ("S", "s ", "", "ss"):
        with pytest.raises(BadSignature):
            token("s", {"A": given_token})


def test_a_message_signed_as_gitlab_documents_it() -> None:
    key, body, when = b"k" * 32, b'{"object_kind":"push"}', str(int(time.time()))
    digest = hmac.new(key, f"id-1.{when}.".encode() + body, hashlib.sha256).digest()
    headers = {
        "webhook-id": "id-1",
        "webhook-timestamp": when,
        "webhook-signature": f"v1,{base64.b64encode(b'x' * 32).decode()} v1,{base64.b64encode(digest).decode()}",
    }
    BY_NAME["gitlab"].verify("whsec_" + base64.b64encode(key).decode(), headers, body)


def test_gitlabs_plain_token_and_its_signature() -> None:
    gitlab, sender, body = BY_NAME["gitlab"], SENDERS["gitlab"], b"{}"
    gitlab.verify(PLAIN_GITLAB, sender.headers(body, "D", secret=PLAIN_GITLAB), body)
    with pytest.raises(BadSignature):  # where messages are to be signed, the token alone is not enough
        gitlab.verify(SECRETS["gitlab_token"], {"x-gitlab-token": SECRETS["gitlab_token"]}, body)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_é", "whsec_a*b", "whsec_A"])
def test_a_signing_secret_that_is_none_is_named(secret: str) -> None:
    with pytest.raises(ConfigError, match="generic_secret"):
        standard_key(secret, "[webhooks] generic_secret")


@pytest.mark.parametrize(
    ("header", "password"),
    [
        ("Basic dTpw", "p"),
        ("basic dTpwOnE=", "p:q"),
        ("Basic dQ==", None),
        ("Basic ***", None),
        ("Bearer x", None),
        (None, None),
    ],
)
def test_the_password_of_basic(header: str | None, password: str | None) -> None:
    assert basic_password(header) == password


@pytest.mark.parametrize(("forge", "sender"), [("gitea", "gogs"), ("forgejo", "gitea"), ("forgejo", "gogs")])
def test_older_versions_sign_with_the_headers_of_the_forge_that_they_come_from(forge: str, sender: str) -> None:
    body = b"{}"
    headers = {
        f"x-{sender}-event": "push",
        f"x-{sender}-delivery": "D-7",
        f"x-{sender}-signature": sha256("s", body),
        "x-github-event": "push",
        "x-github-delivery": "another",
    }
    assert BY_NAME[forge].verify("s", headers, body)
    assert BY_NAME[forge].delivery_id(headers, body) == "D-7"
    for wrong in ({**headers, f"x-{sender}-signature": sha256("t", body)}, {**headers, f"x-{sender}-signature": ""}):
        with pytest.raises(BadSignature):
            BY_NAME[forge].verify("s", wrong, body)


def test_a_forge_that_has_its_own_signature_is_not_verified_by_an_older_ones() -> None:
    headers = {"x-gitea-event": "push", "x-gogs-event": "push", "x-gogs-signature": sha256("s", b"{}")}
    with pytest.raises(BadSignature, match="X-Gitea-Signature"):
        BY_NAME["gitea"].verify("s", headers, b"{}")


def test_old_enterprise_servers_of_github_sign_with_sha_1() -> None:
    signed = "sha1=" + hmac.new(b"s", b"{}", hashlib.sha1).hexdigest()
    github = BY_NAME["github"]
    old = {"x-github-enterprise-version": "2.22.0", "x-hub-signature": signed}
    assert github.verify("s", old, b"{}") != github.verify(
        "s", {"x-hub-signature-256": f"sha256={sha256('s', b'{}')}"}, b"{}"
    )
    for wrong in (
        {"x-hub-signature": signed},
        old | {"x-hub-signature": signed[:-1] + "x"},
        old | {"x-hub-signature-256": "sha256=" + "0" * 64},
    ):
        with pytest.raises(BadSignature):
            github.verify("s", wrong, b"{}")


def test_older_gitlabs_name_their_deliveries_otherwise() -> None:
    """Idempotency-Key came with 17.4, the UUID of the event, which all its hooks share, with 14.8."""
    name = BY_NAME["gitlab"].delivery_id
    first, second = ({"x-gitlab-event-uuid": "E", "x-gitlab-webhook-uuid": hook} for hook in "12")
    assert name(first, b"{}") == name(first, b"[]") != name(second, b"{}")
    assert name({"idempotency-key": "K"} | first, b"{}") == "K"
    assert name({}, b"{}") == name({}, b"{}") != name({}, b"[]")
    assert name({"x-gitlab-event-uuid": "E"}, b"{}") == "E"
