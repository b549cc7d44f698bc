"""Events of every type that imageflow itself reads, with data that nobody expects: each gets its verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imageflow.events.own import BEHIND, CHANGED, PUBLISH
from imageflow.model import Event, Verdict
from imageflow.rebuilds import behind
from imageflow.rebuilds.cloud_watch import CloudWatch
from imageflow.rebuilds.matching import match_waiting
from imageflow.registry import change_events
from imageflow.serving import Serving
from tests.samples.field_variants import variants
from tests.small.yard import open_yard

RECIPE = """
images:
  - name: a
    method: dib
    dib: {elements: [tiny], skip-base: true}
    on:
      - {event: "*"}
      - {event: git.push, where: {repository: infra}}
      - {event: glance.image.activate, where: {not: {name: other}}}
"""
COMMIT = {"repository": "infra", "owner": "acme", "ref": "refs/heads/main", "after": "a" * 40, "before": "b" * 40}
IMAGE = {"id": "i", "name": "debian", "status": "active", "properties": {"imageflow:build_id": "0123456789ab"}}
READ: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("git.push", "git.tag", "git.merge"), COMMIT),
    **dict.fromkeys((behind.ACTIVATE, "glance.image.update", "glance.image.delete"), IMAGE),
    "nova.instance.update": {"uuid": "u"},
    "nova.compute.instance.update": {"instance_id": "u"},
    PUBLISH: {"image": "b"},
    BEHIND: {"parent": "b", "why": "x"},
    change_events.CHANGED: {"images": ["a"], "before": "a", "after": "b", "path": "p", "repository": "r"},
    CHANGED: {"input": "x", "after": "b"},
}


@pytest.mark.parametrize("type", READ)
def test_each_gets_its_verdict(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, type: str) -> None:
    with open_yard(tmp_path, database_url, monkeypatch) as yard:
        yard.register(RECIPE)
        monkeypatch.setattr(yard.service.store, "shared", True)  # so that what Glance tells of our images is looked at
        serving = Serving(yard.service)
        watch = CloudWatch(yard.service.config, yard.service.database, yard.service.store)
        watch.listen()
        odd = [Event("https://x", str(n), type, data=data) for n, data in enumerate(variants(READ[type]))]
        for number, event in enumerate(odd):
            serving.inbox.receive([event], listener="http")
            if number % 100 == 99:  # one look sees so many events, and no more
                watch.listen()
        watch.listen()
        match_waiting(yard.service.database)
        judged = yard.service.events.select(limit=len(odd) + 1)
        assert len(judged) == len(odd)
        assert {event.verdict for event in judged} <= {Verdict.MATCHED, Verdict.NO_TRIGGER}
