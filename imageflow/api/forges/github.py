"""GitHub's webhooks, and what the forges modelled on it (Gitea, Forgejo) share with it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imageflow.api.forges.changes import Repository, numbered, ref_event, whole_ref
from imageflow.api.forges.delivery import (
    FORM,
    JSON,
    Forge,
    WebhookDelivery,
    inner,
    mapping,
    moment,
    name_of,
    plain_url,
    text,
    trimmed,
)
from imageflow.api.signatures import hmac_hex
from imageflow.errors import BadInput
from imageflow.model import Event

FAMILY = ("forgejo", "gitea", "gogs", "github")  # each sends the headers of those after it, too


def origin(headers: Mapping[str, str]) -> str:
    """Which forge of the family a delivery really comes from."""
    return next((name for name in FAMILY if headers.get(f"x-{name}-event")), "github")


def delivery_id(headers: Mapping[str, str], _raw: bytes) -> str | None:
    """The forge's own id of the delivery."""
    return headers.get(f"x-{origin(headers)}-delivery")


def read(delivery: WebhookDelivery) -> list[Event]:
    """The events of a delivery of the family; raises BadInput."""
    forge = origin(delivery.headers)
    event = name_of(delivery.headers.get(f"x-{forge}-event"), f"X-{forge.capitalize()}-Event")
    body = mapping(delivery.body, "the payload")
    where = _repository(body)
    if where is not None:
        change = _change(forge, event, body, where)
        if change is not None:
            return numbered(delivery.id, [change])
    elif event == "push":
        raise BadInput("the payload does not say which repository was pushed to", hint="repository.html_url")
    return [
        Event(
            source=where.source if where else _instance(body, forge),
            id=delivery.id,
            type=f"{forge}.{event}",
            subject=text(body, "ref"),
            data=trimmed(body),
        )
    ]


def _change(forge: str, event: str, body: dict[str, Any], where: Repository) -> Event | None:
    if event == "push":
        pusher = text(body, "pusher", "login") or text(body, "pusher", "username") or text(body, "pusher", "name")
        return ref_event(
            where,
            text(body, "ref"),
            before=text(body, "before"),
            after=text(body, "after"),
            pusher=pusher or text(body, "sender", "login"),
            time=moment(inner(body, "head_commit", "timestamp")),
            deleted=inner(body, "deleted") is True,
            other=f"{forge}.push",
        )
    if event == "delete":
        return ref_event(
            where,
            whole_ref(text(body, "ref"), text(body, "ref_type")),
            before=None,
            after=None,
            pusher=text(body, "sender", "login"),
            deleted=True,
            other=f"{forge}.delete",
        )
    pull = inner(body, "pull_request")
    if event == "pull_request" and text(body, "action") == "closed" and inner(pull, "merged") is True:
        return ref_event(
            where,
            whole_ref(text(pull, "base", "ref")),
            before=text(pull, "base", "sha"),
            after=text(pull, "merge_commit_sha"),
            pusher=text(pull, "merged_by", "login") or text(body, "sender", "login"),
            time=moment(inner(pull, "merged_at")),
            merged=True,
            other=f"{forge}.pull_request",
        )
    return None


def _repository(body: dict[str, Any]) -> Repository | None:
    found = inner(body, "repository")
    source = plain_url(text(found, "html_url"))
    path = text(found, "full_name") or text(found, "name")
    return Repository(source, path, text(found, "clone_url") or source) if source and path else None


def _instance(body: dict[str, Any], forge: str) -> str:
    """The source of an event without a repository: the organisation, or the forge as a whole."""
    return plain_url(text(body, "organization", "html_url")) or plain_url(text(body, "organization", "url")) or forge


def _verify(secret: str, headers: Mapping[str, str], raw: bytes) -> str:
    old = headers.get("x-hub-signature")
    if old and not headers.get("x-hub-signature-256") and headers.get("x-github-enterprise-version"):  # before 2.23
        return hmac_hex(secret, raw, old, header="X-Hub-Signature", prefix="sha1=", algorithm="sha1")
    return hmac_hex(secret, raw, headers.get("x-hub-signature-256"), header="X-Hub-Signature-256", prefix="sha256=")


GITHUB = Forge(
    name="github",
    title="GitHub",
    option="github_secret",
    verify=_verify,
    delivery_id=delivery_id,
    read=read,
    signature_headers=("X-Hub-Signature-256",),
    id_headers=("X-GitHub-Delivery",),
    event_header="X-GitHub-Event",
    content_types=(JSON, FORM),
    old_headers=("X-Hub-Signature",),
)
