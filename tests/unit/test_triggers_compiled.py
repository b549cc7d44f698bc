"""Triggers as recipes say them: one for each kind, with the reason that it gives for a build."""

from __future__ import annotations

import pytest

from imageflow.events import triggers
from imageflow.model import Event
from tests.unit.trigger_matching import PUSH, rule

CANONICAL = {
    "name": "web",
    "base": {"image": "debian-base"},
    "on": [
        {"schedule": "0 3 * * *", "timezone": "Europe/Berlin", "jitter": 0.0},
        {"image": "debian-base"},
        {"event": "git.push", "where": {"repository": "infra", "ref": "refs/heads/main"}},
        {"git": "https://me@forge.example/acme/infra/", "ref": "refs/heads/main", "every": None},
        {"git": "git@forge.example:acme/infra", "ref": "refs/tags/v*", "every": 60.0},
        {"git": "/srv/infra", "ref": "refs/*", "every": None},
        {"watch": "site", "every": None},
    ],
}


def test_every_kind_is_compiled() -> None:
    found = triggers.triggers_of(CANONICAL)
    assert [(each.kind, each.type, each.where) for each in found] == [
        ("schedule", "imageflow.schedule", {"$subject": "web", "schedule": "0 3 * * *"}),
        ("image", "imageflow.image.publish", {"$subject": "debian-base", "unchanged": {"ne": True}}),
        ("event", "git.push", {"repository": "infra", "ref": "refs/heads/main"}),
        ("git", "git.push", {"$source": "https://forge.example/acme/infra", "ref": "refs/heads/main"}),
        ("git", "git.tag", {"$source": "git@forge.example:acme/infra", "ref": {"glob": "refs/tags/v*"}}),
        (
            "git",
            "git.*",
            {"$source": "/srv/infra", "ref": {"glob": "refs/*"}, "$type": {"in": ["git.push", "git.tag"]}},
        ),
        ("watch", "imageflow.input.changed", {"$subject": "web", "input": "site"}),
    ]
    assert [each.position for each in found] == list(range(7))
    assert [each.given for each in found] == CANONICAL["on"]
    assert triggers.triggers_of({"name": "old", "method": "dib"}) == ()


def said(position: int, event: Event) -> str | None:
    return triggers.explain(triggers.triggers_of(CANONICAL)[position], event)


def test_reasons() -> None:
    due = {"image": "web", "schedule": "0 3 * * *", "timezone": "Europe/Berlin", "due": "2026-01-01T03:00:00+01:00"}
    assert said(0, Event("imageflow:schedule", "1", "imageflow.schedule", "web", data=due)) == (
        "schedule 0 3 * * * Europe/Berlin was due at 2026-01-01T03:00:00+01:00 (on[0])"
    )
    publish = Event("imageflow", "publish:b", "imageflow.image.publish", "debian-base", data={"unchanged": False})
    assert said(1, publish) == "debian-base has a new version (on[1])"
    assert said(2, PUSH) == "git.push of refs/heads/main in infra (on[2])"
    changed = Event("imageflow:watch", "1", "imageflow.input.changed", "web", data={"input": "site"})
    assert said(6, changed) == "site changed (on[6])"
    image = Event("glance:host", "1", "glance.image.activate", "debian\x1b[31m", data={"name": "x"})
    assert triggers.explain(rule({}, "glance.*"), image) == "glance.image.activate of debian�[31m (on[0])"
    bare = Event("//x", "1", "other")
    assert triggers.explain(rule({}, "other"), bare) == "other from //x (on[0])"


def test_the_cascade_ends_where_nothing_changed() -> None:
    publish = Event("imageflow", "publish:b", "imageflow.image.publish", "debian-base", data={"unchanged": True})
    assert said(1, publish) is None


def test_what_is_ours_comes_from_us_only() -> None:
    for source in ("evil", "imageflowx", "https://imageflow"):
        event = Event(source, "1", "imageflow.image.publish", "debian-base", data={})
        assert said(1, event) is None


def test_an_image_does_not_ask_for_itself() -> None:
    own = Event("imageflow", "publish:b", "imageflow.image.publish", "web", data={})
    assert triggers.explain(rule({}, "imageflow.*"), own) is None
    assert triggers.explain(rule({}, "imageflow.*", image="other"), own) == "web has a new version (on[0])"


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://me:pw@h/acme/x.git", "https://h/acme/x"),
        ("ssh://git@h:29418/x/", "ssh://h:29418/x"),
        ("file:///srv/a@b.git", "file:///srv/a@b.git"),
        ("git@h:acme/x.git", "git@h:acme/x.git"),
        ("/srv/x.git/", "/srv/x.git"),
    ],
)
def test_the_source_of_a_polled_repository(url: str, source: str) -> None:
    assert triggers.git_source(url) == source
