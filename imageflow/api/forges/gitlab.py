"""GitLab's webhooks: signed as Standard Webhooks, or with a plain token. Pure."""

from __future__ import annotations

import hashlib
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
from imageflow.api.signatures import SIGNING_PREFIX, standard, token
from imageflow.errors import BadInput
from imageflow.model import Event


def read(delivery: WebhookDelivery) -> list[Event]:
    """The events of a delivery; raises BadInput."""
    body = mapping(delivery.body, "the payload")
    header = delivery.headers.get("x-gitlab-event", "").removesuffix(" Hook").strip().lower().replace(" ", "_")
    kind = name_of(text(body, "object_kind") or text(body, "event_name") or header, "object_kind")
    where = _repository(body)
    if where is not None:
        change = _change(kind, body, where)
        if change is not None:
            return numbered(delivery.id, [change])
    elif kind in ("push", "tag_push"):
        raise BadInput("the payload does not say which project was pushed to", hint="project.web_url")
    source = where.source if where else plain_url(delivery.headers.get("x-gitlab-instance")) or "gitlab"
    return [Event(source=source, id=delivery.id, type=f"gitlab.{kind}", subject=text(body, "ref"), data=trimmed(body))]


def _change(kind: str, body: dict[str, Any], where: Repository) -> Event | None:
    if kind in ("push", "tag_push"):
        return ref_event(
            where,
            text(body, "ref"),
            before=text(body, "before"),
            after=text(body, "after"),
            pusher=text(body, "user_username") or text(body, "user_name"),
            other=f"gitlab.{kind}",
        )
    merge = inner(body, "object_attributes")
    if kind == "merge_request" and text(merge, "action") == "merge":
        return ref_event(
            where,
            whole_ref(text(merge, "target_branch")),
            before=None,
            after=text(merge, "merge_commit_sha")
            or text(merge, "squash_commit_sha")
            or text(merge, "last_commit", "id"),
            pusher=text(body, "user", "username") or text(body, "user", "name"),
            time=moment(inner(merge, "updated_at")),
            merged=True,
            other="gitlab.merge_request",
        )
    return None


def _repository(body: dict[str, Any]) -> Repository | None:
    found = inner(body, "project")
    source = plain_url(text(found, "web_url"))
    path = text(found, "path_with_namespace")
    return Repository(source, path, text(found, "git_http_url") or source) if source and path else None


def _verify(secret: str, headers: Mapping[str, str], raw: bytes) -> None:
    if secret.startswith(SIGNING_PREFIX):
        standard(secret, raw, headers)
    else:
        token(secret, {"X-Gitlab-Token": headers.get("x-gitlab-token")})


def _delivery_id(headers: Mapping[str, str], raw: bytes) -> str:
    """The signature covers webhook-id; GitLab before 17.4 has no Idempotency-Key, before 14.8 no id at all."""
    if given := headers.get("webhook-id") or headers.get("idempotency-key"):
        return given
    if event := headers.get("x-gitlab-event-uuid"):  # shared by the hooks of one event
        return "/".join(filter(None, (event, headers.get("x-gitlab-webhook-uuid"))))
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


GITLAB = Forge(
    name="gitlab",
    title="GitLab",
    option="gitlab_token",
    verify=_verify,
    delivery_id=_delivery_id,
    read=read,
    signature_headers=("webhook-signature", "X-Gitlab-Token"),
    id_headers=("webhook-id", "Idempotency-Key"),
    event_header="X-Gitlab-Event",
)
