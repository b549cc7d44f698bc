"""What deliveries of forges become, and what anything else becomes: our own error, nothing worse."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageflow.api.envelopes import events_of
from imageflow.api.forges import FORGES
from imageflow.api.forges.delivery import Delivery, Forge, person, plain_url, trimmed
from imageflow.api.reading import parse_json
from imageflow.api.signatures import BadSignature, basic_password, hmac_hex, standard, standard_key, token
from imageflow.errors import BadInput, ConfigError
from imageflow.listeners import gerrit_lines
from imageflow.model import Event
from tests.webhook_payloads import NEW, OLD, TAG, bitbucket_push, bitbucket_ref, gitea_push
from tests.webhook_samples import SAMPLES, Sample
from tests.webhook_senders import PLAIN_GITLAB, SECRETS, SENDERS, Sender, raw, sha256, standard_headers

BY_NAME = {forge.name: forge for forge in FORGES}
GIT_FIELDS = {"repository", "owner", "ref", "branch", "tag", "before", "after", "pusher", "url"}


def deliver(forge: str, event: str, payload: Any, name: str = "D-1") -> list[Event]:
    sender = SENDERS[forge]
    body = json.dumps(payload).encode()
    return BY_NAME[forge].read(Delivery(name, sender.headers(body, name, event), parse_json(body), body))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.forge}-{sample.type}-{sample.subject}")
def test_each_delivery_becomes_its_event(sample: Sample) -> None:
    [event] = deliver(sample.forge, sample.event, sample.payload)
    assert (event.type, event.subject, event.source) == (sample.type, sample.subject, sample.source)
    assert event.id == "D-1" or sample.forge == "gerrit"  # which names no delivery: what happened names the event
    for name, value in sample.data.items():
        assert event.data[name] == value, name
    if event.type.startswith("git.") and sample.forge != "generic":
        assert set(event.data) - {"change", "title"} == GIT_FIELDS
        assert event.data["ref"] == event.subject


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.forge}-{sample.type}-{sample.subject}")
def test_nothing_private_is_kept(sample: Sample) -> None:
    kept = json.dumps([event.data for event in deliver(sample.forge, sample.event, sample.payload)])
    assert not re.search(r"@acme|ghs_|secret|access_token|avatar", kept)


def test_one_event_for_each_ref_of_a_push() -> None:
    changes = [
        {"new": bitbucket_ref("branch", "main", NEW), "old": bitbucket_ref("branch", "main", OLD)},
        {"new": bitbucket_ref("tag", "v1", TAG), "old": None},
        {"new": None, "old": bitbucket_ref("branch", "old", OLD)},
    ]
    events = deliver("bitbucket", "repo:push", bitbucket_push(*changes), "D")
    assert [(e.id, e.type, e.subject) for e in events] == [
        ("D/1", "git.push", "refs/heads/main"),
        ("D/2", "git.tag", "refs/tags/v1"),
        ("D/3", "git.delete", "refs/heads/old"),
    ]


def test_a_push_of_thousands_of_refs_is_refused() -> None:
    change = {"new": bitbucket_ref("branch", "main", NEW), "old": None}
    with pytest.raises(BadInput, match="1001 refs"):
        deliver("bitbucket", "repo:push", bitbucket_push(*[change] * 1001))


@pytest.mark.parametrize("endpoint", ["github", "gitea"])
def test_a_delivery_of_forgejo_is_read_as_forgejos(endpoint: str) -> None:
    """It sends the others' headers too, and is verified by those that the endpoint's forge has."""
    body = raw(gitea_push(action="opened"))
    headers = SENDERS["forgejo"].sign("shared", "F-1", "issues", body)
    forge = BY_NAME[endpoint]
    assert forge.verify("shared", headers, body)
    headers["x-github-delivery"] = headers["x-gitea-delivery"] = "another"
    assert forge.delivery_id(headers, body) == "F-1"
    assert [e.type for e in forge.read(Delivery("F-1", headers, parse_json(body)))] == ["forgejo.issues"]


def test_gerrits_webhook_and_its_stream_tell_the_same_event() -> None:
    for payload in [sample.payload for sample in SAMPLES if sample.forge == "gerrit"]:
        streamed, _ = gerrit_lines.read(raw(payload) + b"\n")
        posted = deliver("gerrit", "", payload)
        assert [(e.source, e.id, e.type) for e in posted] == [(e.source, e.id, e.type) for e in streamed]


def test_gitlabs_header_names_what_the_payload_does_not() -> None:
    [event] = deliver("gitlab", "System Hook", {"a": 1})
    assert (event.type, event.source) == ("gitlab.system", "https://gitlab.example.org")


@pytest.mark.parametrize(
    ("forge", "event", "payload"),
    [
        ("github", "push", {"ref": "refs/heads/main", "after": NEW}),
        ("github", "push", gitea_push(after="main")),
        ("github", "push", gitea_push(ref=None)),
        ("github", "pu sh", gitea_push()),
        ("github", "", gitea_push()),
        ("github", "push", [1]),
        ("gitlab", "Push Hook", {"object_kind": "push"}),
        ("bitbucket", "repo:push", bitbucket_push() | {"push": {"changes": 5}}),
        ("bitbucket", "repo:push", {"push": {"changes": []}}),
        ("gerrit", "", {"type": "ref-updated"}),
        ("gerrit", "", {"type": "batch-ref-updated", "refUpdates": []}),
        ("gerrit", "", {}),
        ("generic", "", {"data": {}}),
        ("generic", "", {"type": "a\nb"}),
    ],
)
def test_what_lacks_something_is_refused(forge: str, event: str, payload: Any) -> None:
    sender = SENDERS[forge]
    body = json.dumps(payload).encode()
    headers = sender.headers(body, "D", event or "x") | {f"x-{forge}-event": event}
    with pytest.raises(BadInput) as refused:
        BY_NAME[forge].read(Delivery("D", headers, payload, body))
    assert str(refused.value)


TEXTS = st.one_of(
    st.sampled_from(
        [
            "refs/heads/main",
            "refs/tags/v1",
            "main",
            "0" * 40,
            "a" * 40,
            "https://u:p@h/x",
            "http://[",
            "push",
            "merge",
            "closed",
            "ref-updated",
            "batch-ref-updated",
            "change-merged",
            "tag_push",
            "merge_request",
            "2026-01-31T12:00:00Z",
            "0001-01-01T00:00:00+23:59",
            "",
        ]
    ),
    st.text(max_size=20),
)
KEYS = st.one_of(
    st.sampled_from(
        re.findall(
            r"\w+",
            "ref after before repository project push changes new old target hash name type links html href html_url self"
            " full_name path_with_namespace web_url pusher sender login object_kind object_attributes action pull_request"
            " merged base sha head_commit timestamp refUpdate refUpdates refName newRev oldRev change branch submitter"
            " eventCreatedOn pullRequest toRef id slug key actor source subject data merge_commit organization url",
        )
    ),
    st.text(max_size=5),
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=8),
    max_leaves=30,
)
EVENT_NAMES = st.one_of(
    st.sampled_from(
        ["push", "delete", "pull_request", "repo:push", "repo:refs_changed", "pullrequest:fulfilled", "pr:merged"]
    ),
    st.text(max_size=10),
)


@pytest.mark.parametrize("forge", FORGES, ids=lambda forge: forge.name)
@settings(max_examples=200, deadline=None)
@given(body=ANY_JSON, event=EVENT_NAMES)
def test_any_json_is_events_or_bad_input(forge: Forge, body: Any, event: str) -> None:
    headers = {forge.event_header.lower(): event} if forge.event_header else {}
    try:
        events = forge.read(Delivery("D", headers, body, json.dumps(body).encode()))
    except BadInput:
        return
    _are_storable(events)


def _mutated(payload: Any, path: list[int], value: Any) -> Any:
    """The payload with what lies at some path replaced."""
    if not path or not isinstance(payload, dict | list) or not payload:
        return value
    index = path[0] % len(payload)
    if isinstance(payload, list):
        return [_mutated(one, path[1:], value) if n == index else one for n, one in enumerate(payload)]
    return {key: _mutated(one, path[1:], value) if n == index else one for n, (key, one) in enumerate(payload.items())}


@settings(max_examples=500, deadline=None)
@given(sample=st.sampled_from(SAMPLES), path=st.lists(st.integers(0, 30), min_size=1, max_size=5), value=ANY_JSON)
def test_a_delivery_with_anything_replaced_is_events_or_bad_input(sample: Sample, path: list[int], value: Any) -> None:
    try:
        events = deliver(sample.forge, sample.event, _mutated(sample.payload, path, value))
    except BadInput:
        return
    _are_storable(events)


def _are_storable(events: list[Event]) -> None:
    assert events
    assert len({event.id for event in events}) == len(events)
    for event in events:
        json.dumps(event.data)
        assert event.source and event.id and event.type
        if event.type in ("git.push", "git.tag"):
            assert event.data is None or event.data.get("after") != "0" * 40


@settings(max_examples=200, deadline=None)
@given(body=st.one_of(st.binary(max_size=200), ANY_JSON.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_json_or_bad_input(body: bytes) -> None:
    try:
        parse_json(body)
    except BadInput as error:
        assert str(error).startswith("the body")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff", "UTF-8"),
        (b"{", "line 1 column 2"),
        (b'{"a": NaN}', "NaN"),
        (b"[1e999]", "too large"),
        (b"[" * 100000, "nested"),
        (b"[" * 65 + b"]" * 65, "64 levels"),
        (b"1" * 5000, "usable"),
        (rb'["\ud800"]', "surrogate"),
        (b"", "line 1"),
    ],
)
def test_hostile_json_is_named(body: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        parse_json(body)


STRUCTURED = {"specversion": "1.0", "id": "1", "source": "x", "type": "t"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": None}, "id is missing"),
        ({"id": 5}, "id is missing"),
        ({"source": ""}, "source is missing"),
        ({"specversion": "0.3"}, "1.0"),
        ({"time": "yesterday"}, "no CloudEvent"),
        ({"time": "2026-01-31T12:00:00"}, "time"),
        ({"time": 5}, "no CloudEvent"),
        ({"subject": ""}, "subject"),
        ({"data": 1, "data_base64": "AA=="}, "both"),
        ({"data_base64": "A"}, "no CloudEvent"),
        ({"Bad-Name": "x"}, "Bad-Name"),
    ],
)
def test_a_structured_event_that_is_none(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        events_of("structured", [], json.dumps(STRUCTURED | change).encode())
    with pytest.raises(BadInput, match=r"events\[1\].*" + words):
        events_of("batch", [], json.dumps([STRUCTURED, STRUCTURED | change]).encode())


def test_an_event_without_time_has_none() -> None:
    [event] = events_of("structured", [], json.dumps(STRUCTURED).encode())
    assert event.time is None
    [event] = events_of("structured", [], json.dumps(STRUCTURED | {"time": "1970-01-01T00:00:01Z"}).encode())
    assert event.time == 1.0


def test_a_binary_event() -> None:
    headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "x%20y"), ("ce-type", "t"), ("host", "h")]
    [event] = events_of("binary", [*headers, ("content-type", "application/json")], b'{"a": [1]}')
    assert (event.source, event.id, event.type, event.data) == ("x y", "1", "t", {"a": [1]})
    with pytest.raises(BadInput, match="twice"):
        events_of("binary", [*headers, ("ce-id", "2")], b"")
    with pytest.raises(BadInput, match="column"):
        events_of("binary", headers, b"{")
    with pytest.raises(BadInput, match="ce-"):
        events_of("binary", headers[:2], b"")
    [event] = events_of("binary", [*headers, ("content-type", "application/octet-stream")], b"\xff")
    assert event.data == {"base64": "/w=="}


@settings(max_examples=200, deadline=None)
@given(
    value=st.dictionaries(
        st.sampled_from(["id", "source", "type", "time", "subject", "data", "data_base64", "datacontenttype", "x"])
        | KEYS,
        ANY_JSON,
    )
)
def test_any_object_is_an_event_or_bad_input(value: dict[str, Any]) -> None:
    for one in (value, STRUCTURED | value):
        try:
            events_of("structured", [], json.dumps(one).encode())
        except BadInput as error:
            assert str(error)


HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=20)


@settings(max_examples=200, deadline=None)
@given(
    values=st.dictionaries(st.sampled_from(["id", "source", "type", "time", "subject", "data", "x-y"]), HEADER),
    kind=HEADER | st.just("application/json"),
    body=st.binary(max_size=30),
)
def test_any_headers_are_an_event_or_bad_input(values: dict[str, str], kind: str, body: bytes) -> None:
    usual = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "x", "ce-type": "t", "content-type": kind}
    given_headers = usual | {f"ce-{name}": value for name, value in values.items()}
    try:
        events_of("binary", list(given_headers.items()), body)
    except BadInput as error:
        assert str(error)


# signatures


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


@settings(max_examples=200, deadline=None)
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


@pytest.mark.parametrize(
    ("given_url", "kept"),
    [
        ("https://u:p@h.example:8443/a/b?token=x#y", "https://h.example:8443/a/b"),
        ("http://[::1]:80/a/", "http://[::1]:80/a"),
        ("git@github.com:acme/infra.git", None),
        ("javascript:alert(1)", None),
        ("https://h:99999/", None),
        ("http://[", None),
        (None, None),
    ],
)
def test_urls_lose_what_is_secret(given_url: str | None, kept: str | None) -> None:
    assert plain_url(given_url) == kept


def test_a_pusher_is_a_name() -> None:
    assert person("Jo Doe <jo@acme.example>") == "Jo Doe"
    assert person("jo@acme.example") is None


def test_long_payloads_are_cut() -> None:
    kept = trimmed({"a": "x" * 5000, "b": list(range(500)), "user_email": "e", "c": {"d": [{"e": {"f": {"g": {}}}}]}})
    assert len(kept["a"]) == 1000 and len(kept["b"]) == 50 and "user_email" not in kept
    assert trimmed("a@" * 100_000) is not None
