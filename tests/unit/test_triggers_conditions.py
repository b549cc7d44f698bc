"""Conditions of triggers by table: what a push with certain data matches, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from imageflow.events import triggers
from tests.unit.trigger_matching import PUSH, matches, rule


@pytest.mark.parametrize(
    "where",
    [
        {},
        {"repository": "infra"},
        {"repository": "infra", "ref": "refs/heads/main"},
        {"number": 3},
        {"number": 3.0},
        {"number": "3"},
        {"spelled": 3},
        {"spelled": "3"},
        {"ratio": "0.50"},
        {"ok": True},
        {"ok": "true"},
        {"okay": True},
        {"version": 12.1},
        {"labels": "edge"},
        {"labels.1": "edge"},
        {"commits.author.name": "bob"},
        {"commits.0.author.name": "ann"},
        {"nova.data.uuid": "u"},
        {"$source": "https://forge.example/acme/infra", "$id": "1", "$type": "git.push", "$subject": "refs/heads/main"},
        {"$time": "2026-01-01T00:00:00Z"},
        {"$time": {"ge": "2026-01-01T01:00:00+01:00", "lt": "2026-01-02"}},
        {"$time": {"glob": "2026-01-*"}},
        {"ref": {"glob": "refs/*"}},
        {"ref": {"regex": "refs/heads/(main|master)"}},
        {"number": {"regex": "[0-9]"}},
        {"repository": {"in": ["a", "infra"]}},
        {"number": {"gt": 2, "le": 3, "ne": 4}},
        {"version": {"gt": 12}},
        {"version": {"lt": "12.9"}},  # text, letter by letter
        {"owner": {"ne": "evil"}},
        {"missing": {"ne": "evil"}},
        {"labels": {"ne": "db"}},
        {"tag": {"exists": False}},
        {"missing": {"exists": False}},
        {"empty": {"exists": True}},
        {"none": {"exists": True}},
        {"commits": {"exists": True}},
        {"all": [{"owner": "acme"}, {"any": [{"owner": "x"}, {"repository": "infra"}]}]},
        {"not": {"owner": "evil"}},
        {"not": {"missing": "x"}},
        {"all": []},
    ],
)
def test_matches(where: dict[str, Any]) -> None:
    assert matches(where)
    assert not matches({"not": where})


@pytest.mark.parametrize(
    "where",
    [
        {"repository": "infra", "ref": "refs/heads/next"},
        {"repository": "Infra"},
        {"number": "three"},
        {"ok": 1},
        {"number": True},
        {"labels.2": "edge"},
        {"labels.edge": "edge"},
        {"commits.2.id": "a1"},
        {"nova.uuid": "u"},
        {"version": "12.1"},
        {"ref": {"glob": "refs/?"}},
        {"ref": {"glob": "REFS/*"}},
        {"ref": {"regex": "heads"}},  # the whole value is meant
        {"sizes": {"gt": 2, "lt": 8}},  # no single one is
        {"number": {"gt": "two"}},
        {"ok": {"gt": 0}},
        {"labels": {"ne": "edge"}},
        {"missing": {"glob": "*"}},
        {"missing": {"lt": 3}},
        {"tag": {"exists": True}},
        {"tag": {"glob": "*"}},
        {"owner": {"exists": False}},
        {"$subject": {"exists": False}},
        {"$time": {"gt": "2026-01-01T00:00:00Z"}},
        {"commits": "a1"},
        {"any": []},
    ],
)
def test_does_not_match(where: dict[str, Any]) -> None:
    assert not matches(where)
    assert matches({"not": where})


@pytest.mark.parametrize(
    "where",
    [
        {"repository": {"like": "x"}},
        {"repository": {"regex": "("}},
        {"repository": {"glob": 3}},
        {"repository": {"in": "infra"}},
        {"any": {"repository": "infra"}},
        {"not": [1]},
        {"$time": "yesterday"},
    ],
)
def test_a_condition_that_no_recipe_may_have_matches_nothing(where: dict[str, Any]) -> None:
    assert not matches(where)
    assert not matches({"not": where})


def test_types() -> None:
    assert triggers.explain(rule({}, "git.*"), PUSH)
    assert triggers.explain(rule({}, "*"), PUSH)
    assert not triggers.explain(rule({}, "git"), PUSH)
    assert not triggers.explain(rule({}, "GIT.PUSH"), PUSH)
    for type in ("git.*", "*", "git.push", "[g]it.push"):
        assert triggers.probe(rule({}, type)) in triggers.probes(PUSH)
        assert triggers.probe(rule({"owner": "acme"}, type)) in triggers.probes(PUSH)
