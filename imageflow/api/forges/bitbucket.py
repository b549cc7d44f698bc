"""Bitbucket's webhooks, Cloud and Data Center. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imageflow.api.forges.changes import Repository, numbered, ref_event, whole_ref
from imageflow.api.forges.delivery import (
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


def read(delivery: WebhookDelivery) -> list[Event]:
    """The events of a delivery, one per ref; raises BadInput."""
    kind = name_of(delivery.headers.get("x-event-key"), "X-Event-Key")
    body = mapping(delivery.body, "the payload")
    events: list[Event] = []
    if kind == "repo:push":
        where = _needed(_cloud(inner(body, "repository")))
        events = [_cloud_change(where, body, one) for one in _list(inner(body, "push", "changes"), "push.changes")]
    elif kind == "repo:refs_changed":
        where = _needed(_server(inner(body, "repository")))
        events = [_server_change(where, body, one) for one in _list(inner(body, "changes"), "changes")]
    elif kind == "pullrequest:fulfilled":
        events = [_cloud_merge(_needed(_cloud(inner(body, "repository"))), body)]
    elif kind == "pr:merged":
        target = inner(body, "pullRequest", "toRef")
        events = [_server_merge(_needed(_server(inner(target, "repository"))), body, target)]
    if events:
        return numbered(delivery.id, events)
    found = _cloud(inner(body, "repository")) or _server(inner(body, "repository"))
    source = found.source if found else "bitbucket"
    return [Event(source=source, id=delivery.id, type=f"bitbucket.{kind}", data=trimmed(body))]


def _cloud_change(where: Repository, body: dict[str, Any], change: Any) -> Event:
    new, old = inner(change, "new"), inner(change, "old")
    known = new if isinstance(new, dict) else old
    return ref_event(
        where,
        whole_ref(text(known, "name"), text(known, "type")),
        before=text(old, "target", "hash"),
        after=text(new, "target", "hash"),
        pusher=_actor(body),
        time=moment(inner(new, "target", "date")),
        deleted=new is None,
        other="bitbucket.repo:push",
    )


def _cloud_merge(where: Repository, body: dict[str, Any]) -> Event:
    pull = inner(body, "pullrequest")
    return ref_event(
        where,
        whole_ref(text(pull, "destination", "branch", "name")),
        before=text(pull, "destination", "commit", "hash"),
        after=text(pull, "merge_commit", "hash"),
        pusher=text(pull, "closed_by", "nickname") or _actor(body),
        time=moment(inner(pull, "updated_on")),
        merged=True,
        other="bitbucket.pullrequest:fulfilled",
    )


def _server_change(where: Repository, body: dict[str, Any], change: Any) -> Event:
    return ref_event(
        where,
        text(change, "ref", "id") or text(change, "refId"),
        before=text(change, "fromHash"),
        after=text(change, "toHash"),
        pusher=_actor(body),
        deleted=text(change, "type") == "DELETE",
        other="bitbucket.repo:refs_changed",
    )


def _server_merge(where: Repository, body: dict[str, Any], target: Any) -> Event:
    return ref_event(
        where,
        text(target, "id"),
        before=text(target, "latestCommit"),
        after=text(body, "pullRequest", "properties", "mergeCommit", "id")
        or text(body, "pullRequest", "fromRef", "latestCommit"),  # a fast-forward makes no commit of its own
        pusher=_actor(body),
        merged=True,
        other="bitbucket.pr:merged",
    )


def _actor(body: dict[str, Any]) -> str | None:
    actor = inner(body, "actor")
    return text(actor, "nickname") or text(actor, "name") or text(actor, "display_name") or text(actor, "displayName")


def _cloud(found: Any) -> Repository | None:
    source = plain_url(text(found, "links", "html", "href"))
    path = text(found, "full_name")
    return Repository(source, path, source) if source and path else None


def _server(found: Any) -> Repository | None:
    project, slug = text(found, "project", "key"), text(found, "slug")
    if not project or not slug:
        return None
    links = inner(found, "links", "self")
    link = links[0] if isinstance(links, list) and links else None
    source = plain_url(text(link, "href"))
    return Repository(source or f"bitbucket:{project}/{slug}", f"{project}/{slug}", source)


def _needed(found: Repository | None) -> Repository:
    if found is None:
        raise BadInput("the payload does not say which repository changed", hint="repository.links, full_name or slug")
    return found


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadInput(f"{where} is not a list")
    return value


def _verify(secret: str, headers: Mapping[str, str], raw: bytes) -> str:
    return hmac_hex(secret, raw, headers.get("x-hub-signature"), header="X-Hub-Signature", prefix="sha256=")


def _delivery_id(headers: Mapping[str, str], _raw: bytes) -> str | None:
    return headers.get("x-request-uuid") or headers.get("x-request-id")  # Cloud, Data Center


BITBUCKET = Forge(
    name="bitbucket",
    title="Bitbucket",
    option="bitbucket_secret",
    verify=_verify,
    delivery_id=_delivery_id,
    read=read,
    signature_headers=("X-Hub-Signature",),
    id_headers=("X-Request-UUID", "X-Request-Id"),
    event_header="X-Event-Key",
)
