"""Which commit an event is about: of which ref of which repository, and which one was there before. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imageflow.model import Event

SHORTEST = 7  # digits of a commit that is told in short
_HEX = re.compile(r"[0-9a-f]{7,64}")
_PLAIN = ("git.push", "git.tag")  # their pins' names were always made from whatever they have


@dataclass(frozen=True, slots=True)
class Commit:
    """What an event says about one ref."""

    repository: str  # with its owner: acme/infra
    ref: str
    after: str | None  # None: the ref is gone, or the event does not say
    before: str | None = None  # None: the ref is new, or the event does not say
    ordered: bool = False  # the event says what the ref was before, or that it was not

    @property
    def name(self) -> str:
        """Of the ref among all repositories; part of a pin's name, and so of build keys."""
        return f"{self.repository}#{self.ref}"


def said(event: Event) -> Commit | None:
    """The commit that an event of any type is about; None when it is about none."""
    data = event.data
    if not isinstance(data, Mapping):
        return None
    if event.type.startswith("git.") or _is(data.get("after")):
        return _ours(event, data)
    family = event.type.partition(".")[0]
    return _SHAPES[family](data) if family in _SHAPES else None


def same(one: str | None, other: str | None) -> bool:
    """Whether two texts are the same commit, though one of them may be told in short."""
    if one == other:
        return one is not None
    if not one or not other or not _HEX.fullmatch(one) or not _HEX.fullmatch(other):
        return False
    return one.startswith(other) or other.startswith(one)


def _is(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _known(value: Any) -> str | None:
    """A commit, or any other name of a revision; None for the zeros that mean none."""
    return value if _is(value) and value.strip("0") else None


def _ours(event: Event, data: Mapping[str, Any]) -> Commit | None:
    repository, ref = data.get("repository"), data.get("ref") or event.subject
    if event.type not in _PLAIN and not (_is(repository) and _is(ref)):
        return None
    owner = f"{data['owner']}/" if data.get("owner") else ""
    after, before = data.get("after"), data.get("before")
    return Commit(
        f"{owner}{repository}",
        f"{data.get('ref') if event.type in _PLAIN else ref}",
        after=_known(after),
        before=_known(before),
        # what a merge names as before is where its author began, not where the branch was
        ordered="before" in data and event.type != "git.merge",
    )


def _at(data: Any, path: str) -> Any:
    for key in path.split("."):
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _first(data: Mapping[str, Any], repository: Any, places: tuple[tuple[str, str, str], ...]) -> Commit | None:
    """`places`: paths of a commit and of its ref, and what the ref begins with; the first commit found counts."""
    if not _is(repository):
        return None
    for commit, ref, prefix in places:
        found, name = _at(data, commit), _at(data, ref)
        if _is(found) and _HEX.fullmatch(found):
            whole = name if not _is(name) or name.startswith("refs/") else f"{prefix}{name}"
            return Commit(repository, whole if _is(whole) else "", found)
    return None


_HEADS, _TAGS = "refs/heads/", "refs/tags/"
_GITHUB = (
    ("workflow_run.head_sha", "workflow_run.head_branch", _HEADS),
    ("workflow_job.head_sha", "workflow_job.head_branch", _HEADS),
    ("check_suite.head_sha", "check_suite.head_branch", _HEADS),
    ("check_run.head_sha", "check_run.check_suite.head_branch", _HEADS),
    ("deployment.sha", "deployment.ref", _HEADS),
    ("release.target_commitish", "release.tag_name", _TAGS),
    ("pull_request.head.sha", "pull_request.head.ref", _HEADS),
    ("sha", "ref", _HEADS),
    ("commit.sha", "ref", _HEADS),
)
_GITLAB = (
    ("object_attributes.sha", "object_attributes.ref", _HEADS),
    ("object_attributes.last_commit.id", "object_attributes.source_branch", _HEADS),
    ("sha", "ref", _HEADS),
    ("commit.id", "tag", _TAGS),
)
_BITBUCKET = (
    ("commit_status.commit.hash", "commit_status.refname", _HEADS),
    ("pullrequest.source.commit.hash", "pullrequest.source.branch.name", _HEADS),
    ("commit.id", "ref.id", _HEADS),
    ("pullRequest.fromRef.latestCommit", "pullRequest.fromRef.id", _HEADS),
)
_GERRIT = (("patchSet.revision", "patchSet.ref", _HEADS),)


def _github(data: Mapping[str, Any]) -> Commit | None:
    return _first(data, _at(data, "repository.full_name"), _GITHUB)


def _gitlab(data: Mapping[str, Any]) -> Commit | None:
    found = _first(data, _at(data, "project.path_with_namespace"), _GITLAB)
    if found and (_at(data, "object_attributes.tag") is True or data.get("tag") is True):
        return Commit(found.repository, found.ref.replace(_HEADS, _TAGS, 1), found.after)
    return found


def _bitbucket(data: Mapping[str, Any]) -> Commit | None:
    project, slug = _at(data, "repository.project.key"), _at(data, "repository.slug")
    place = _at(data, "repository.full_name") or (f"{project}/{slug}" if _is(project) and _is(slug) else None)
    return _first(data, place, _BITBUCKET)


def _gerrit(data: Mapping[str, Any]) -> Commit | None:
    return _first(data, _at(data, "change.project"), _GERRIT)


_SHAPES = {
    "github": _github,
    "gitea": _github,
    "forgejo": _github,
    "gogs": _github,
    "gitlab": _gitlab,
    "bitbucket": _bitbucket,
    "gerrit": _gerrit,
}
