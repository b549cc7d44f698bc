"""Events and triggers that are huge, deep or many: what they cost stays bounded."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from imageflow.events import triggers
from imageflow.model import Event
from tests.unit.trigger_matching import PUSH, matches, rule


def nested(levels: int) -> Any:
    data: Any = "x"
    for level in range(levels):
        data = {"a": data} if level % 2 else [data]
    return data


def test_deep_nesting() -> None:
    event = Event("s", "1", "t", data=nested(100_000))
    assert len(triggers.probes(event)) <= 10
    assert matches({"a": {"exists": True}}, event)
    assert not matches({"a.a.a.a": "x"}, event)


def test_lists_in_lists_are_walked_once() -> None:
    data: Any = "x"
    for _ in range(500):
        data = [data]
    event = Event("s", "1", "t", data={"a": data})
    assert not matches({"a.0.0.0.0.0.0.0": "y"}, event)
    assert matches({"a.0.0.0.0.0.0.0": "x"}, event)


def test_fields_beyond_what_probes_know_match_all_the_same() -> None:
    path = [f"k{n}" for n in range(12)]
    data: Any = "x"
    for key in reversed(path):
        data = {key: data}
    event = Event("s", "1", "t", data=data)
    assert matches({".".join(path): "x"}, event)
    assert matches({".".join(path[:8]): {"exists": True}}, event)


def test_a_huge_event_has_a_bounded_number_of_probes() -> None:
    event = Event("s", "1", "t", data={f"field{n}": n for n in range(150_000)})
    found = triggers.probes(event)
    assert len(found) <= 2 * 65536 + 2
    assert matches({"field149999": 149999}, event)


def test_long_keys_do_not_multiply() -> None:
    """Were each path written out, these would be 100 GB."""
    event = Event("s", "1", "t", data={"k" * 1_000_000: {f"f{n}": n for n in range(100_000)}, "x" * 150: {"y" * 60: 1}})
    assert len(triggers.probes(event)) == 2 * 4
    assert matches({"k" * 1_000_000 + ".f7": 7}, event)
    assert matches({"x" * 150 + "." + "y" * 60: 1}, event)


def test_many_values_against_many() -> None:
    event = Event("s", "1", "t", data={"x": list(range(100_000))})
    assert not matches({"x": {"in": [-n for n in range(1, 1000)]}}, event)
    assert matches({"x": {"in": [*(-n for n in range(1, 1000)), "99999"]}}, event)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|aa)+b", "(.*)*b", "(a*)*(a*)*b"])
def test_expressions_that_blow_up_elsewhere(pattern: str) -> None:
    event = Event("s", "1", "t", data={"x": "a" * 100_000})
    assert not matches({"x": {"regex": pattern}}, event)
    assert not matches({"x": {"glob": "*a*a*a*a*a*a*a*b"}}, event)


def test_a_few_triggers_of_very_many_are_candidates() -> None:
    shuffle = random.Random(1)
    rules = [rule({"ref": "refs/heads/main", "repository": f"repo{n}"}) for n in range(10_000)]
    stored: dict[str, int] = {}
    for each in rules:
        stored[triggers.probe(each)] = stored.get(triggers.probe(each), 0) + 1
    for _ in range(20):
        name = f"repo{shuffle.randrange(10_000)}"
        event = Event(
            f"https://h/{name}", "1", "git.push", data=json.loads(json.dumps(PUSH.data)) | {"repository": name}
        )
        assert sum(stored.get(each, 0) for each in triggers.probes(event)) < 30


def test_the_most_telling_field_is_probed() -> None:
    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        return triggers.probe(rule(one)) == triggers.probe(rule(other))

    main, infra = {"ref": "refs/heads/main"}, {"repository": "infra"}
    assert same(main | infra, infra)
    assert same({"all": [main, {"any": [infra]}]}, infra)
    assert same({"repository": {"in": ["infra"]}, "ok": True}, infra)
    assert same(main | {"service": "x"}, {"service": "x"})
    assert same({"ok": True, "repository": {"glob": "infra"}}, {"ok": True})
    assert same({"any": [main, infra]}, {}), "none of both must hold"
    assert same({"not": infra}, {})
    assert same({"labels.0": "web"}, {}), "an event's probes do not count items"
    assert same({"owner.name": "x", "$id": "1"}, {"$id": "1"})
