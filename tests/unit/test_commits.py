"""Which commit an event is about, by the shapes that forges give it."""

from __future__ import annotations

from typing import Any

import pytest

from imageflow.events import commits
from imageflow.model import Event
from tests.samples.webhooks import SAMPLES
from tests.unit.forge_deliveries import deliver

SHA = "a" * 40
HUB = {"repository": {"full_name": "acme/infra"}}
LAB = {"project": {"path_with_namespace": "acme/infra"}}
BUCKET = {"repository": {"full_name": "acme/infra"}}


@pytest.mark.parametrize(
    ("type", "data", "ref"),
    [
        ("github.workflow_run", HUB | {"workflow_run": {"head_sha": SHA, "head_branch": "main"}}, "refs/heads/main"),
        ("github.check_suite", HUB | {"check_suite": {"head_sha": SHA, "head_branch": "main"}}, "refs/heads/main"),
        ("github.status", HUB | {"sha": SHA}, ""),
        ("github.release", HUB | {"release": {"target_commitish": SHA, "tag_name": "v1"}}, "refs/tags/v1"),
        ("forgejo.pull_request", HUB | {"pull_request": {"head": {"sha": SHA, "ref": "fix"}}}, "refs/heads/fix"),
        ("gitlab.pipeline", LAB | {"object_attributes": {"sha": SHA, "ref": "main", "tag": False}}, "refs/heads/main"),
        ("gitlab.pipeline", LAB | {"object_attributes": {"sha": SHA, "ref": "v1", "tag": True}}, "refs/tags/v1"),
        ("gitlab.build", LAB | {"sha": SHA, "ref": "main", "tag": False}, "refs/heads/main"),
        ("gitlab.release", LAB | {"tag": "v1", "commit": {"id": SHA}}, "refs/tags/v1"),
        (
            "bitbucket.pullrequest:updated",
            BUCKET | {"pullrequest": {"source": {"commit": {"hash": SHA[:12]}, "branch": {"name": "fix"}}}},
            "refs/heads/fix",
        ),
        (
            "bitbucket.pr:opened",
            {
                "repository": {"slug": "infra", "project": {"key": "acme"}},
                "pullRequest": {"fromRef": {"id": "refs/heads/fix", "latestCommit": SHA}},
            },
            "refs/heads/fix",
        ),
        (
            "gerrit.patchset-created",
            {"change": {"project": "acme/infra"}, "patchSet": {"revision": SHA, "ref": "refs/changes/01/1/2"}},
            "refs/changes/01/1/2",
        ),
        ("com.example.release", {"repository": "infra", "owner": "acme", "ref": "refs/x", "after": SHA}, "refs/x"),
        ("git.merge", {"repository": "infra", "owner": "acme", "ref": "refs/x", "after": SHA}, "refs/x"),
    ],
)
def test_events_about_a_commit(type: str, data: dict[str, Any], ref: str) -> None:
    found = commits.said(Event("https://forge.example", "1", type, data=data))
    assert found is not None and (found.repository, found.ref) == ("acme/infra", ref)
    assert commits.same(found.after, SHA)


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("github.issues", HUB | {"issue": {}}),
        ("github.workflow_run", {"workflow_run": {"head_sha": SHA}}),
        ("gitlab.pipeline", LAB | {"object_attributes": {"sha": "main"}}),
        ("git.merge", {"after": SHA}),
        ("com.example.x", {"after": 5, "repository": "x", "ref": "y"}),
        ("com.example.x", {"after": SHA}),
        ("com.example.x", [1]),
        ("com.example.x", None),
        ("gitlab.x", {"project": 5, "sha": {"a": 1}}),
    ],
)
def test_events_about_none(type: str, data: Any) -> None:
    assert commits.said(Event("x", "1", type, data=data)) is None


def test_zeros_are_no_commit() -> None:
    data = {"repository": "infra", "ref": "refs/x", "before": "0" * 40, "after": "0" * 64}
    found = commits.said(Event("x", "1", "git.push", data=data))
    assert found is not None and (found.before, found.after, found.ordered) == (None, None, True)


def test_every_sample_of_a_change_has_its_commit() -> None:
    for sample in SAMPLES:
        if sample.type in ("git.push", "git.tag", "git.merge") and sample.forge != "generic":
            [event] = deliver(sample.forge, sample.event, sample.payload)
            found = commits.said(event)
            assert found is not None and found.after, sample
            assert found.ordered is (sample.type != "git.merge")


@pytest.mark.parametrize(
    ("one", "other", "are"),
    [
        (SHA, SHA, True),
        (SHA, SHA[:7], True),
        (SHA[:12], SHA, True),
        (SHA, SHA[:6], False),
        (SHA, "b" * 40, False),
        ("r15", "r15", True),
        ("r1512345", "r15", False),
        (None, None, False),
        (None, SHA, False),
    ],
)
def test_the_same_commit_in_two_lengths(one: str | None, other: str | None, are: bool) -> None:
    assert commits.same(one, other) is are
