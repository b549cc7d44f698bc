"""What Gerrit's webhooks plugin posts: its stream events, with a token, for it can't sign. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from imageflow.api.forges.changes import Repository, numbered, ref_event, whole_ref
from imageflow.api.forges.delivery import JSON, Delivery, Forge, inner, mapping, moment, name_of, text, trimmed
from imageflow.api.signatures import basic_password, bearer, token
from imageflow.errors import BadInput
from imageflow.model import Event


def read(delivery: Delivery) -> list[Event]:
    """The events of a delivery, one per ref; raises BadInput. Gerrit may leave out any field."""
    body = mapping(delivery.body, "the payload")
    kind = name_of(text(body, "type"), "the payload's field 'type'")
    when = moment(inner(body, "eventCreatedOn"))
    if kind == "ref-updated":
        return numbered(delivery.id, [_updated(body, inner(body, "refUpdate"), kind, when)])
    if kind == "batch-ref-updated":
        updates = inner(body, "refUpdates")
        if not isinstance(updates, list):
            raise BadInput("refUpdates is no list")
        if updates:
            return numbered(delivery.id, [_updated(body, update, kind, when) for update in updates])
    if kind == "change-merged":
        return numbered(delivery.id, [_merged(body, when)])
    project = _project(body)
    return [
        Event(
            source=f"gerrit:{project}" if project else "gerrit",
            id=delivery.id,
            type=f"gerrit.{kind}",
            subject=text(body, "refName"),
            time=when,
            data=trimmed(body),
        )
    ]


def _updated(body: dict[str, Any], update: Any, kind: str, when: float | None) -> Event:
    return ref_event(
        _repository(text(update, "project") or _project(body)),
        whole_ref(text(update, "refName")),
        before=text(update, "oldRev"),
        after=text(update, "newRev"),
        pusher=_name(inner(body, "submitter")),
        time=when,
        other=f"gerrit.{kind}",
    )


def _merged(body: dict[str, Any], when: float | None) -> Event:
    return ref_event(
        _repository(_project(body)),
        text(body, "refName") or whole_ref(text(body, "change", "branch")),
        before=None,
        after=text(body, "newRev") or text(body, "patchSet", "revision"),
        pusher=_name(inner(body, "submitter")),
        time=when,
        merged=True,
        other="gerrit.change-merged",
    )


def _name(account: Any) -> str | None:
    return text(account, "username") or text(account, "name")


def _project(body: dict[str, Any]) -> str | None:
    return (
        text(body, "change", "project")
        or text(body, "refUpdate", "project")
        or text(body, "project")
        or text(body, "project", "name")
        or text(body, "projectName")
    )


def _repository(project: str | None) -> Repository:
    if project is None:
        raise BadInput("the payload does not say which project changed")
    return Repository(f"gerrit:{project}", project)


def _verify(secret: str, headers: Mapping[str, str], _raw: bytes) -> None:
    authorization = headers.get("authorization")
    token(
        secret,
        {
            "Authorization": bearer(authorization) or basic_password(authorization),
            "X-Gerrit-Token": headers.get("x-gerrit-token"),
        },
    )


def _delivery_id(_headers: Mapping[str, str], raw: bytes) -> str:
    # it names none; the body holds the time, and a retry sends the same one
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


GERRIT = Forge(
    name="gerrit",
    title="Gerrit (its webhooks plugin)",
    option="gerrit_token",
    verify=_verify,
    delivery_id=_delivery_id,
    read=read,
    signature_headers=("Authorization", "X-Gerrit-Token"),
    id_headers=(),
    event_header=None,
    content_types=(JSON, "text/plain", ""),
    challenge='Basic realm="imageflow"',  # the plugin's client sends the URL's password only when asked
)
