"""What each forge sends in a webhook, as its public documentation shows it."""

from __future__ import annotations

import uuid
from typing import Any

ZEROS = "0" * 40


OLD, NEW, TAG = "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "a10867b14bb761a232cd80139fbd4c0d33264240", "c" * 40


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


def bitbucket_ref(kind: str, name: str, commit: str) -> dict[str, Any]:
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
        "new": bitbucket_ref("branch", "main", NEW),
        "old": bitbucket_ref("branch", "main", OLD),
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
