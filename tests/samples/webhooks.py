"""Webhooks of each forge, and the events that they have to become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.samples.webhook_payloads import (
    BITBUCKET_REPOSITORY,
    GITHUB_REPOSITORY,
    GITLAB_PROJECT,
    NEW,
    OLD,
    TAG,
    ZEROS,
    bitbucket_push,
    bitbucket_ref,
    generic_push,
    gerrit_ref_updated,
    gitea_push,
    github_pull_request,
    github_push,
    gitlab_push,
)


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


def _server_merge(**properties: Any) -> dict[str, Any]:
    where = {
        "slug": "infra",
        "project": {"key": "ACME"},
        "links": {"self": [{"href": "https://bitbucket.example/projects/ACME/repos/infra/browse"}]},
    }
    return {
        "eventKey": "pr:merged",
        "actor": {"name": "maya"},
        "pullRequest": {
            "id": 1,
            "fromRef": {"id": "refs/heads/fix", "latestCommit": TAG, "repository": where},
            "toRef": {"id": "refs/heads/main", "latestCommit": OLD, "repository": where},
            "properties": properties,
        },
    }


_SERVER_MERGE = _server_merge(mergeCommit={"displayId": NEW[:11], "id": NEW})


_SERVER_FAST_FORWARD = _server_merge()


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
        bitbucket_push({"new": None, "old": bitbucket_ref("branch", "old", OLD), "closed": True}),
        "git.delete",
        "refs/heads/old",
        _BUCKET,
        {"before": OLD, "after": None},
    ),
    Sample(
        "bitbucket",
        "repo:push",
        bitbucket_push({"new": bitbucket_ref("tag", "v1", TAG), "old": None, "created": True}),
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
        {"branch": "main", "pusher": "maya", "before": OLD[:12], "after": NEW[:12]},
    ),
    Sample(
        "bitbucket",
        "pr:merged",
        _SERVER_MERGE,
        "git.merge",
        "refs/heads/main",
        "https://bitbucket.example/projects/ACME/repos/infra/browse",
        {"repository": "infra", "owner": "ACME", "after": NEW},
    ),
    Sample(
        "bitbucket",
        "pr:merged",
        _SERVER_FAST_FORWARD,
        "git.merge",
        "refs/heads/main",
        "https://bitbucket.example/projects/ACME/repos/infra/browse",
        {"after": TAG},
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
