"""A push, a trigger made of its fields, and whether a condition matches that push."""

from __future__ import annotations

from typing import Any

from imageflow.events import triggers
from imageflow.model import Event, Trigger

PUSH = Event(
    "https://forge.example/acme/infra",
    "1",
    "git.push",
    subject="refs/heads/main",
    time=1767225600.0,  # 2026-01-01T00:00:00Z
    data={
        "repository": "infra",
        "owner": "acme",
        "ref": "refs/heads/main",
        "branch": "main",
        "tag": None,
        "number": 3,
        "spelled": "3",
        "ratio": 0.5,
        "ok": True,
        "okay": "True",
        "labels": ["web", "edge"],
        "sizes": [1, 9],
        "commits": [{"id": "a1", "author": {"name": "ann"}}, {"id": "b2", "author": {"name": "bob"}}],
        "nova.data": {"uuid": "u"},
        "empty": {},
        "none": [],
        "version": "12.10",
    },
)


def rule(where: dict[str, Any], type: str = "git.push", image: str = "web", kind: str = "event") -> Trigger:
    return Trigger(image, 0, kind, type, where, {"event": type, "where": where})


def matches(where: dict[str, Any], event: Event = PUSH) -> bool:
    trigger = rule(where, event.type)
    found = triggers.explain(trigger, event) is not None
    if found:
        assert triggers.probe(trigger) in triggers.probes(event)
    return found
