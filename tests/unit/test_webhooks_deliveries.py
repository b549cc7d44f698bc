"""What deliveries of forges become, and what anything else becomes: our own error, nothing worse."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.api.forges import FORGES
from imageflow.api.forges.delivery import Forge, WebhookDelivery, person, plain_url, trimmed
from imageflow.errors import BadInput
from imageflow.events.reading import parse_json
from imageflow.listeners import gerrit_lines
from imageflow.model import Event
from tests.examples import examples
from tests.samples.field_variants import variants
from tests.samples.webhook_payloads import NEW, OLD, TAG, bitbucket_push, bitbucket_ref, gitea_push
from tests.samples.webhook_senders import SENDERS, raw
from tests.samples.webhooks import SAMPLES, Sample
from tests.unit.any_json import ANY_JSON
from tests.unit.forge_deliveries import BY_NAME, deliver

GIT_FIELDS = {"repository", "owner", "ref", "branch", "tag", "before", "after", "pusher", "url"}


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
    assert [e.type for e in forge.read(WebhookDelivery("F-1", headers, parse_json(body)))] == ["forgejo.issues"]


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
        BY_NAME[forge].read(WebhookDelivery("D", headers, payload, body))
    assert str(refused.value)


EVENT_NAMES = st.one_of(
    st.sampled_from(
        ["push", "delete", "pull_request", "repo:push", "repo:refs_changed", "pullrequest:fulfilled", "pr:merged"]
    ),
    st.text(max_size=10),
)


@pytest.mark.parametrize("forge", FORGES, ids=lambda forge: forge.name)
@examples(2)
@given(body=ANY_JSON, event=EVENT_NAMES)
def test_any_json_is_events_or_bad_input(forge: Forge, body: Any, event: str) -> None:
    headers = {forge.event_header.lower(): event} if forge.event_header else {}
    try:
        events = forge.read(WebhookDelivery("D", headers, body, json.dumps(body).encode()))
    except BadInput:
        return
    _are_sound(events, forge.name)


def _mutated(payload: Any, path: list[int], value: Any) -> Any:
    """The payload with what lies at some path replaced."""
    if not path or not isinstance(payload, dict | list) or not payload:
        return value
    index = path[0] % len(payload)
    if isinstance(payload, list):
        return [_mutated(one, path[1:], value) if n == index else one for n, one in enumerate(payload)]
    return {key: _mutated(one, path[1:], value) if n == index else one for n, (key, one) in enumerate(payload.items())}


@examples(5)
@given(sample=st.sampled_from(SAMPLES), path=st.lists(st.integers(0, 30), min_size=1, max_size=5), value=ANY_JSON)
def test_a_delivery_with_anything_replaced_is_events_or_bad_input(sample: Sample, path: list[int], value: Any) -> None:
    try:
        events = deliver(sample.forge, sample.event, _mutated(sample.payload, path, value))
    except BadInput:
        return
    _are_sound(events, sample.forge)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.forge}-{sample.type}-{sample.subject}")
def test_a_delivery_with_one_thing_wrong_is_events_or_bad_input(sample: Sample) -> None:
    for payload in variants(sample.payload):
        with contextlib.suppress(BadInput):
            _are_sound(deliver(sample.forge, sample.event, payload), sample.forge)


def _are_sound(events: list[Event], forge: str) -> None:
    """They can be stored; a push that we made of a delivery of a forge is one, and leaves a commit there."""
    assert events
    assert len({event.id for event in events}) == len(events)
    for event in events:
        json.dumps(event.data)
        assert event.source and event.id and event.type
        if (
            event.type in ("git.push", "git.tag") and forge != "generic"
        ):  # whose senders name type and data as they like
            assert event.data["ref"] == event.subject
            assert event.data.get("after") != "0" * 40


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
