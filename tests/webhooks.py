"""Deliveries of each forge as its public documentation shows them, and how each signs; shared by tests."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks.webhooks import Webhook

ZEROS = "0" * 40
OLD, NEW, TAG = "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "a10867b14bb761a232cd80139fbd4c0d33264240", "c" * 40
SECRETS = {
    "github_secret": "It's a Secret to Everybody",
    "gitlab_token": "whsec_" + base64.b64encode(b"gitlab signing key of 32 bytes..").decode(),
    "gitea_secret": "gitea-secret",
    "forgejo_secret": "forgejo-secret",
    "bitbucket_secret": "bitbucket-secret",
    "gerrit_token": "gerrit-token",
    "generic_secret": "a plain secret",
}
PLAIN_GITLAB = "a plain gitlab token"


def sha256(secret: str, body: bytes) -> str:
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def standard_headers(secret: str, name: str, body: bytes, when: float | None = None) -> dict[str, str]:
    """What a sender that follows standardwebhooks.com adds."""
    moment = datetime.datetime.fromtimestamp(time.time() if when is None else when, datetime.UTC)
    key: str | bytes = secret if secret.startswith("whsec_") else secret.encode()
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Webhook(key).sign(name, moment, body.decode()),
    }


def _github(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    return {
        "user-agent": "GitHub-Hookshot/044aadd",
        "x-github-delivery": name,
        "x-github-event": event,
        "x-github-hook-id": "292430182",
        "x-hub-signature-256": f"sha256={sha256(secret, body)}",
    }


def _gitea(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    signature = sha256(secret, body)
    headers = {"x-hub-signature": "sha1=" + hmac.new(secret.encode(), body, hashlib.sha1).hexdigest()}
    headers["x-hub-signature-256"] = f"sha256={signature}"
    for family in ("gitea", "gogs", "github"):
        headers |= {f"x-{family}-delivery": name, f"x-{family}-event": event, f"x-{family}-event-type": event}
    return headers | {"x-gitea-signature": signature, "x-gogs-signature": signature}


def _forgejo(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    headers = _gitea(secret, name, event, body) | {"x-forgejo-delivery": name, "x-forgejo-event": event}
    return headers | {"x-forgejo-event-type": event, "x-forgejo-signature": sha256(secret, body)}


def _gitlab(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    headers = {
        "x-gitlab-event": event,
        "x-gitlab-instance": "https://gitlab.example.org",
        "x-gitlab-webhook-uuid": "02affd2d-2cba-4033-917d-ec22d5dc4b38",
        "x-gitlab-event-uuid": "13792a34-cac6-4fda-95a8-c58e00a3954e",
        "idempotency-key": name,
    }
    if secret.startswith("whsec_"):
        return headers | standard_headers(secret, name, body)
    return headers | {"x-gitlab-token": secret}


def _bitbucket(secret: str, name: str, event: str, body: bytes) -> dict[str, str]:
    return {
        "x-event-key": event,
        "x-request-uuid": name,
        "x-hook-uuid": "fd9aa3cf-9bd3-4a3b-9e4f-0f1b9a7a3d2e",
        "x-attempt-number": "1",
        "x-hub-signature": f"sha256={sha256(secret, body)}",
    }


def _gerrit(secret: str, _name: str, _event: str, _body: bytes) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"gerrit:{secret}".encode()).decode()}


def _generic(secret: str, name: str, _event: str, body: bytes) -> dict[str, str]:
    return standard_headers(secret, name, body)


@dataclass(frozen=True)
class Sender:
    """A forge, from its own side."""

    name: str
    option: str
    sign: Callable[[str, str, str, bytes], dict[str, str]]  # (secret, delivery id, event, body) -> headers
    event: str  # of the push below
    push: Callable[[], dict[str, Any]]  # another one each time
    signature: str  # the header
    names_it: str | None  # the header with the delivery id
    content_type: str = "application/json"

    def headers(self, body: bytes, name: str | None = None, event: str = "", secret: str = "") -> dict[str, str]:
        signed = self.sign(secret or SECRETS[self.option], name or str(uuid.uuid4()), event or self.event, body)
        return signed | {"content-type": self.content_type}


@dataclass(frozen=True)
class Sample:
    """A delivery and what it has to become."""

    forge: str
    event: str
    payload: Mapping[str, Any]
    type: str
    subject: str | None = None
    source: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)  # part of it
    id: str = "D-1"


GITHUB_REPOSITORY = {
    "id": 35129377,
    "name": "infra",
    "full_name": "acme/infra",
    "private": True,
    "owner": {"name": "acme", "email": "ops@acme.example", "login": "acme", "avatar_url": "https://a.example/1"},
    "html_url": "https://github.com/acme/infra",
    "url": "https://github.com/acme/infra",
    "git_url": "git://github.com/acme/infra.git",
    "ssh_url": "git@github.com:acme/infra.git",
    "clone_url": "https://x-access-token:ghs_16C7e42F292c6912E7@github.com/acme/infra.git",
    "default_branch": "main",
}


def github_push(**changes: Any) -> dict[str, Any]:
    return {
        "ref": "refs/heads/main",
        "before": OLD,
        "after": NEW,
        "created": False,
        "deleted": False,
        "forced": False,
        "base_ref": None,
        "compare": f"https://github.com/acme/infra/compare/{OLD[:12]}...{NEW[:12]}",
        "commits": [{"id": NEW, "message": "New kernel", "author": {"name": "Jo", "email": "jo@acme.example"}}],
        "head_commit": {
            "id": NEW,
            "message": f"New kernel {uuid.uuid4()}",
            "timestamp": "2026-01-31T12:00:00+01:00",
            "author": {"name": "Jo", "email": "jo@acme.example", "username": "jo"},
        },
        "repository": GITHUB_REPOSITORY,
        "pusher": {"name": "jo", "email": "jo@acme.example"},
        "sender": {"login": "jo", "id": 6752317},
        "installation": {"id": 1, "access_tokens_url": "https://api.github.com/app/installations/1/access_tokens"},
        **changes,
    }


def github_pull_request(merged: bool) -> dict[str, Any]:
    return {
        "action": "closed",
        "number": 2,
        "pull_request": {
            "html_url": "https://github.com/acme/infra/pull/2",
            "merged": merged,
            "merged_at": "2026-01-31T12:00:00Z" if merged else None,
            "merge_commit_sha": NEW,
            "merged_by": {"login": "maya"} if merged else None,
            "head": {"ref": "fix", "sha": TAG},
            "base": {"ref": "main", "sha": OLD},
        },
        "repository": GITHUB_REPOSITORY,
        "sender": {"login": "jo"},
    }


def gitea_push(**changes: Any) -> dict[str, Any]:
    user = {"id": 1, "login": "jo", "full_name": "Jo Doe", "email": "jo@acme.example", "username": "jo"}
    return {
        "ref": "refs/heads/develop",
        "before": OLD,
        "after": NEW,
        "compare_url": f"https://code.example.org/acme/infra/compare/{OLD}...{NEW}",
        "commits": [{"id": NEW, "message": f"{uuid.uuid4()}", "timestamp": "2026-01-31T13:52:11-04:00"}],
        "total_commits": 1,
        "repository": {
            "id": 140,
            "owner": user | {"login": "acme", "username": "acme"},
            "name": "infra",
            "full_name": "acme/infra",
            "html_url": "https://code.example.org/acme/infra",
            "ssh_url": "ssh://git@code.example.org/acme/infra.git",
            "clone_url": "https://code.example.org/acme/infra.git",
        },
        "pusher": user,
        "sender": user,
        **changes,
    }


GITLAB_PROJECT = {
    "id": 15,
    "name": "Infra of Acme",
    "web_url": "https://gitlab.example.org/acme/base/infra",
    "git_ssh_url": "git@gitlab.example.org:acme/base/infra.git",
    "git_http_url": "https://gitlab.example.org/acme/base/infra.git",
    "namespace": "Base",
    "path_with_namespace": "acme/base/infra",
    "default_branch": "main",
}


def gitlab_push(**changes: Any) -> dict[str, Any]:
    return {
        "object_kind": "push",
        "event_name": "push",
        "before": OLD,
        "after": NEW,
        "ref": "refs/heads/main",
        "ref_protected": True,
        "checkout_sha": NEW,
        "message": f"{uuid.uuid4()}",
        "user_id": 4,
        "user_name": "Jo Doe",
        "user_username": "jo",
        "user_email": "jo@acme.example",
        "project_id": 15,
        "project": GITLAB_PROJECT,
        "commits": [{"id": NEW, "author": {"name": "Jo", "email": "jo@acme.example"}}],
        "total_commits_count": 1,
        **changes,
    }


def _bitbucket_ref(kind: str, name: str, commit: str) -> dict[str, Any]:
    target = {"type": "commit", "hash": commit, "date": "2026-01-31T12:00:00+00:00", "message": f"{uuid.uuid4()}"}
    return {"type": kind, "name": name, "target": target}


BITBUCKET_REPOSITORY = {
    "type": "repository",
    "full_name": "acme/infra",
    "name": "Infra",
    "uuid": "{673a6070-3421-46c9-9d48-90745f7bfe8e}",
    "links": {"html": {"href": "https://bitbucket.org/acme/infra"}},
}


def bitbucket_push(*changes: dict[str, Any]) -> dict[str, Any]:
    usual = {
        "new": _bitbucket_ref("branch", "main", NEW),
        "old": _bitbucket_ref("branch", "main", OLD),
        "created": False,
        "closed": False,
        "forced": False,
    }
    return {
        "push": {"changes": list(changes) or [usual]},
        "actor": {"type": "user", "nickname": "jo", "display_name": "Jo Doe", "account_id": "557058:1"},
        "repository": BITBUCKET_REPOSITORY,
    }


def gerrit_ref_updated(**changes: Any) -> dict[str, Any]:
    update = {"oldRev": OLD, "newRev": NEW, "refName": "refs/heads/main", "project": "acme/infra"} | changes
    return {
        "submitter": {"name": "Jo Doe", "email": "jo@acme.example", "username": "jo"},
        "refUpdate": update,
        "type": "ref-updated",
        "eventCreatedOn": 1769860800 + uuid.uuid4().int % 10**6,
    }


def generic_push() -> dict[str, Any]:
    return {
        "type": "git.push",
        "timestamp": "2026-01-31T12:00:00Z",
        "source": "https://svn.example.org/infra",
        "subject": "refs/heads/main",
        "data": {"repository": "infra", "branch": "main", "nonce": str(uuid.uuid4())},
    }


SENDERS = {
    sender.name: sender
    for sender in (
        Sender("github", "github_secret", _github, "push", github_push, "x-hub-signature-256", "x-github-delivery"),
        Sender("gitlab", "gitlab_token", _gitlab, "Push Hook", gitlab_push, "webhook-signature", "webhook-id"),
        Sender("gitea", "gitea_secret", _gitea, "push", gitea_push, "x-gitea-signature", "x-gitea-delivery"),
        Sender("forgejo", "forgejo_secret", _forgejo, "push", gitea_push, "x-forgejo-signature", "x-forgejo-delivery"),
        Sender(
            "bitbucket",
            "bitbucket_secret",
            _bitbucket,
            "repo:push",
            bitbucket_push,
            "x-hub-signature",
            "x-request-uuid",
        ),
        Sender("gerrit", "gerrit_token", _gerrit, "", gerrit_ref_updated, "authorization", None),
        Sender("generic", "generic_secret", _generic, "", generic_push, "webhook-signature", "webhook-id"),
    )
}
_HUB = "https://github.com/acme/infra"
_LAB = "https://gitlab.example.org/acme/base/infra"
_TEA = "https://code.example.org/acme/infra"
_BUCKET = "https://bitbucket.org/acme/infra"
_MAIN = {"repository": "infra", "owner": "acme", "branch": "main", "tag": None, "before": OLD, "after": NEW}
_GITLAB_MERGE = {
    "object_kind": "merge_request",
    "user": {"name": "Maya", "username": "maya", "email": "maya@acme.example"},
    "project": GITLAB_PROJECT,
    "object_attributes": {
        "action": "merge",
        "state": "merged",
        "target_branch": "main",
        "source_branch": "fix",
        "merge_commit_sha": NEW,
        "last_commit": {"id": TAG},
    },
}
_SERVER_CHANGES = [
    {
        "ref": {"id": "refs/heads/main", "displayId": "main", "type": "BRANCH"},
        "refId": "refs/heads/main",
        "fromHash": OLD,
        "toHash": NEW,
        "type": "UPDATE",
    }
]
SAMPLES = (
    Sample(
        "github",
        "push",
        github_push(),
        "git.push",
        "refs/heads/main",
        _HUB,
        _MAIN | {"pusher": "jo", "url": f"{_HUB}.git"},
    ),
    Sample(
        "github",
        "push",
        github_push(ref="refs/tags/v1.0", before=ZEROS, after=TAG, created=True),
        "git.tag",
        "refs/tags/v1.0",
        _HUB,
        {"branch": None, "tag": "v1.0", "before": None, "after": TAG},
    ),
    Sample(
        "github",
        "push",
        github_push(ref="refs/heads/old", after=ZEROS, deleted=True, head_commit=None),
        "git.delete",
        "refs/heads/old",
        _HUB,
        {"branch": "old", "before": OLD, "after": None},
    ),
    Sample("github", "push", github_push(ref="refs/heads/a/b"), "git.push", "refs/heads/a/b", _HUB, {"branch": "a/b"}),
    Sample(
        "github",
        "pull_request",
        github_pull_request(True),
        "git.merge",
        "refs/heads/main",
        _HUB,
        _MAIN | {"pusher": "maya"},
    ),
    Sample(
        "github", "pull_request", github_pull_request(False), "github.pull_request", None, _HUB, {"action": "closed"}
    ),
    Sample(
        "github",
        "ping",
        {"zen": "Design for failure.", "hook_id": 1, "hook": {"config": {"secret": "********"}}},
        "github.ping",
        None,
        "github",
        {"zen": "Design for failure."},
    ),
    Sample(
        "github",
        "issues",
        {"action": "opened", "repository": GITHUB_REPOSITORY},
        "github.issues",
        None,
        _HUB,
        {"action": "opened"},
    ),
    Sample(
        "gitea",
        "push",
        gitea_push(),
        "git.push",
        "refs/heads/develop",
        _TEA,
        {"branch": "develop", "pusher": "jo", "url": f"{_TEA}.git"},
    ),
    Sample(
        "forgejo",
        "delete",
        gitea_push(ref="old", ref_type="branch"),
        "git.delete",
        "refs/heads/old",
        _TEA,
        {"branch": "old", "after": None},
    ),
    Sample(
        "forgejo", "issues", gitea_push(ref="", action="opened"), "forgejo.issues", None, _TEA, {"action": "opened"}
    ),
    Sample(
        "gitlab",
        "Push Hook",
        gitlab_push(),
        "git.push",
        "refs/heads/main",
        _LAB,
        {
            "repository": "infra",
            "owner": "acme/base",
            "before": OLD,
            "after": NEW,
            "pusher": "jo",
            "url": f"{_LAB}.git",
        },
    ),
    Sample(
        "gitlab",
        "Push Hook",
        gitlab_push(after=ZEROS, checkout_sha=None),
        "git.delete",
        "refs/heads/main",
        _LAB,
        {"after": None},
    ),
    Sample(
        "gitlab",
        "Tag Push Hook",
        gitlab_push(object_kind="tag_push", event_name="tag_push", ref="refs/tags/v2", before=ZEROS),
        "git.tag",
        "refs/tags/v2",
        _LAB,
        {"tag": "v2", "before": None},
    ),
    Sample(
        "gitlab",
        "Merge Request Hook",
        _GITLAB_MERGE,
        "git.merge",
        "refs/heads/main",
        _LAB,
        {"after": NEW, "pusher": "maya"},
    ),
    Sample(
        "gitlab",
        "Pipeline Hook",
        {"object_kind": "pipeline", "object_attributes": {"status": "success"}, "project": GITLAB_PROJECT},
        "gitlab.pipeline",
        None,
        _LAB,
        {"object_attributes": {"status": "success"}},
    ),
    Sample(
        "bitbucket",
        "repo:push",
        bitbucket_push(),
        "git.push",
        "refs/heads/main",
        _BUCKET,
        _MAIN | {"pusher": "jo", "url": _BUCKET},
    ),
    Sample(
        "bitbucket",
        "repo:push",
        bitbucket_push({"new": None, "old": _bitbucket_ref("branch", "old", OLD), "closed": True}),
        "git.delete",
        "refs/heads/old",
        _BUCKET,
        {"before": OLD, "after": None},
    ),
    Sample(
        "bitbucket",
        "repo:push",
        bitbucket_push({"new": _bitbucket_ref("tag", "v1", TAG), "old": None, "created": True}),
        "git.tag",
        "refs/tags/v1",
        _BUCKET,
        {"tag": "v1", "after": TAG},
    ),
    Sample(
        "bitbucket",
        "pullrequest:fulfilled",
        {
            "repository": BITBUCKET_REPOSITORY,
            "actor": {"nickname": "maya"},
            "pullrequest": {
                "destination": {"branch": {"name": "main"}, "commit": {"hash": OLD[:12]}},
                "merge_commit": {"hash": NEW[:12]},
                "state": "MERGED",
            },
        },
        "git.merge",
        "refs/heads/main",
        _BUCKET,
        {"branch": "main", "pusher": "maya"},
    ),
    Sample(
        "bitbucket",
        "repo:refs_changed",
        {
            "eventKey": "repo:refs_changed",
            "actor": {"name": "jo", "emailAddress": "jo@acme.example", "displayName": "Jo Doe"},
            "repository": {"slug": "infra", "project": {"key": "ACME"}},
            "changes": _SERVER_CHANGES,
        },
        "git.push",
        "refs/heads/main",
        "bitbucket:ACME/infra",
        {"repository": "infra", "owner": "ACME", "before": OLD, "after": NEW, "pusher": "jo", "url": None},
    ),
    Sample(
        "bitbucket", "issue:created", {"repository": BITBUCKET_REPOSITORY}, "bitbucket.issue:created", None, _BUCKET
    ),
    Sample(
        "gerrit", "", gerrit_ref_updated(), "git.push", "refs/heads/main", "gerrit:acme/infra", _MAIN | {"pusher": "jo"}
    ),
    Sample("gerrit", "", gerrit_ref_updated(newRev=ZEROS), "git.delete", "refs/heads/main", "gerrit:acme/infra"),
    Sample(
        "gerrit",
        "",
        gerrit_ref_updated(refName="refs/changes/01/1/1"),
        "gerrit.ref-updated",
        "refs/changes/01/1/1",
        "gerrit:acme/infra",
    ),
    Sample(
        "gerrit",
        "",
        {
            "type": "change-merged",
            "submitter": {"name": "Maya"},
            "newRev": NEW,
            "change": {"project": "acme/infra", "branch": "main", "number": 7, "owner": {"email": "jo@acme.example"}},
            "eventCreatedOn": 1769860800,
        },
        "git.merge",
        "refs/heads/main",
        "gerrit:acme/infra",
        {"after": NEW, "pusher": "Maya"},
    ),
    Sample(
        "gerrit",
        "",
        {
            "type": "comment-added",
            "comment": "Looks good",
            "change": {"project": "acme/infra"},
            "eventCreatedOn": 1769860800,
        },
        "gerrit.comment-added",
        None,
        "gerrit:acme/infra",
        {"comment": "Looks good"},
    ),
    Sample(
        "generic",
        "",
        generic_push(),
        "git.push",
        "refs/heads/main",
        "https://svn.example.org/infra",
        {"branch": "main"},
    ),
    Sample("generic", "", {"type": "disk.full"}, "disk.full", None, "webhook"),
)


def raw(payload: Mapping[str, Any]) -> bytes:
    return json.dumps(payload).encode()
