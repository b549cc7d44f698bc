"""Triggers: which events ask for which images, by table and by property."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from imageflow import triggers
from imageflow.model import Event, Trigger
from imageflow.triggers import conditions, fields

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


# -- compiled from recipes -----------------------------------------------------------------------

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


# -- by property ---------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "ref", "name", "repository", "a.b", "x", "0", "1", "", "$subject"])
TEXTS = st.sampled_from(["", "a", "3", "3.0", "true", "False", "refs/heads/main", "1e3", "é"]) | st.text(max_size=4)
NUMBERS = st.integers(-3, 3) | st.integers() | st.floats() | st.sampled_from([10**400, 2**53 + 1, -0.0])
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
DATA: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(NAMES, below, max_size=4), max_leaves=10
)
WORDS = st.sampled_from(["t", "git.push", "imageflow.image.publish", "a"]) | st.text(min_size=1, max_size=4)
EVENTS = st.builds(
    Event,
    source=WORDS | st.just("imageflow"),
    id=WORDS,
    type=WORDS,
    subject=st.none() | TEXTS,
    time=st.none() | st.floats() | st.integers(0, 2**33).map(float),
    data=DATA,
)
FIELDS = st.lists(NAMES, min_size=1, max_size=3).map(".".join) | st.sampled_from(
    ["$source", "$id", "$type", "$subject", "$time"]
)
VALUES = st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
OPERATIONS = st.fixed_dictionaries(
    {},
    optional={
        "glob": TEXTS | st.sampled_from(["*", "?", "[a", "[!a]*", "[z-a]"]),
        "regex": st.sampled_from([".*", "a|b", "(a+)+", "[0-9]+"]),
        "in": st.lists(VALUES, min_size=1, max_size=3),
        "ne": VALUES,
        "exists": st.booleans(),
        "lt": NUMBERS | TEXTS,
        "le": VALUES,
        "gt": VALUES,
        "ge": NUMBERS | TEXTS,
    },
).filter(bool)
TIMES = st.sampled_from(["2026-01-01", "2026-01-01T00:00:00Z", "1970-01-01T00:00:01+00:00"])
ON_TIME = st.fixed_dictionaries(
    {}, optional={"ge": TIMES, "lt": TIMES, "ne": TIMES, "exists": st.booleans(), "glob": st.just("20*")}
).filter(bool)


def _one(field: str) -> st.SearchStrategy[dict[str, Any]]:
    wanted = TIMES | ON_TIME if field == "$time" else VALUES | OPERATIONS
    return wanted.map(lambda value: {field: value})


ONE = FIELDS.flatmap(_one)
WHERES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    ONE | st.just({}),
    lambda below: st.one_of(
        st.lists(below, max_size=3).map(lambda each: {"all": each}),
        st.lists(below, max_size=3).map(lambda each: {"any": each}),
        below.map(lambda each: {"not": each}),
        st.tuples(below, ONE).map(lambda pair: pair[0] | pair[1]),
    ),
    max_leaves=5,
)
MANY = settings(max_examples=300, deadline=None)


@st.composite
def told(draw: st.DrawFn) -> tuple[dict[str, Any], Event]:
    """An event and a condition that says something true about it, among other things."""
    event = draw(EVENTS)
    pairs = list(fields.scalars(event))
    where = draw(WHERES)
    for field, value in draw(st.lists(st.sampled_from(pairs), max_size=3)):
        if isinstance(value, str | bool | int | float) and value == value:
            given = draw(st.sampled_from(["is", "in", "all", "any", "text"]))
            wanted: Any = str(value) if given == "text" and isinstance(value, int) and abs(value) < 10**30 else value
            one = {field: {"in": [wanted]} if given == "in" else wanted}
            where = (
                where | {"all": [one]} if given == "all" else where | {"any": [one]} if given == "any" else where | one
            )
    return where, event


@MANY
@given(pair=told(), type=st.sampled_from(["exact", "*", "?*"]))
def test_a_trigger_is_found_by_its_probe_whenever_it_matches(pair: tuple[dict[str, Any], Event], type: str) -> None:
    where, event = pair
    trigger = rule(where, event.type if type == "exact" else type)
    probe, found = triggers.probe(trigger), triggers.probes(event)
    assert len(probe) <= 32 and all(len(each) <= 32 for each in found)
    assert len(found) == len(set(found))
    if triggers.explain(trigger, event) is not None:
        assert probe in found


@MANY
@given(event=EVENTS)
def test_what_an_event_has_can_be_asked_for(event: Event) -> None:
    for field, value in fields.scalars(event):
        if field != "$time" and isinstance(value, str | int | float) and value == value and not field.startswith("$"):
            assert conditions.holds({field: value}, event), (field, value)
            assert conditions.holds({field: {"exists": True}}, event)
            assert not conditions.holds({field: {"ne": value}}, event)


@MANY
@given(one=WHERES, other=WHERES, event=EVENTS)
def test_all_any_and_not_are_logic(one: dict[str, Any], other: dict[str, Any], event: Event) -> None:
    def holds(where: dict[str, Any]) -> bool:
        return conditions.holds(where, event)

    assert holds({"not": {"any": [one, other]}}) == holds({"all": [{"not": one}, {"not": other}]})
    assert holds({"not": {"all": [one, other]}}) == holds({"any": [{"not": one}, {"not": other}]})
    assert holds({"not": {"not": one}}) == holds(one) == holds({"all": [one]}) == holds({"any": [one]})
    assert holds({"all": [one, other]}) == (holds(one) and holds(other))
    assert holds({"any": [one, other]}) == (holds(one) or holds(other))
    assert holds(one) == all(holds({field: wanted}) for field, wanted in one.items())


@MANY
@given(field=FIELDS.filter(lambda each: each != "$time"), values=st.lists(VALUES, min_size=1, max_size=3), event=EVENTS)
def test_comparisons_agree_with_each_other(field: str, values: list[Any], event: Event) -> None:
    def holds(wanted: Any) -> bool:
        return conditions.holds({field: wanted}, event)

    assert holds({"in": values}) == any(holds(value) for value in values)
    assert holds({"ne": values[0]}) == (not holds(values[0]))
    assert holds({"exists": True}) != holds({"exists": False})
    if isinstance(values[0], str | float | int) and not isinstance(values[0], bool):
        assert holds({"lt": values[0]}) <= holds({"le": values[0]})
        assert holds({"le": values[0]}) <= holds({"exists": True})


ANY_KEYS = st.text(max_size=3) | NAMES
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.text(alphabet=st.characters(), max_size=5),  # halves of characters, too
    lambda below: st.lists(below, max_size=4) | st.dictionaries(ANY_KEYS, below, max_size=4),
    max_leaves=15,
)


@MANY
@given(
    where=st.dictionaries(FIELDS | st.sampled_from(["all", "any", "not"]), ANYTHING, max_size=3),
    type=st.text(alphabet=st.characters(), max_size=5),
    event=st.builds(
        Event,
        source=st.text(alphabet=st.characters()),
        id=st.text(),
        type=st.text(alphabet=st.characters(), max_size=5),
        subject=st.none() | st.text(alphabet=st.characters()),
        time=st.none() | st.floats(),
        data=ANYTHING,
    ),
)
def test_nothing_raises_whatever_the_event_and_the_condition_are(where: Any, type: str, event: Event) -> None:
    for trigger in (rule(where, type), rule(where, event.type), rule(where, "*")):
        reason = triggers.explain(trigger, event)
        probe = triggers.probe(trigger)
        assert len(probe) <= 32
        if reason is not None:
            assert reason.isprintable()
            assert probe in triggers.probes(event)


def _glob(pattern: str, text: str) -> bool:
    """The oracle: `*` and `?` only, letter by letter."""
    reached = {0}
    for letter in pattern:
        if letter == "*":
            reached = set(range(min(reached, default=len(text) + 1), len(text) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(text) and letter in ("?", text[at])}
    return len(text) in reached


@MANY
@given(pattern=st.text(alphabet="ab/*?.\n", max_size=8), text=st.text(alphabet="ab/.\n", max_size=10))
@example(pattern="refs/*", text="refs/heads/main")
@example(pattern="", text="")
def test_a_glob_against_an_oracle(pattern: str, text: str) -> None:
    assert conditions.glob(pattern, text) == _glob(pattern, text)


@MANY
@given(one=SCALARS, other=SCALARS)
def test_equal_values_share_a_probe(one: Any, other: Any) -> None:
    assume(one is not None and other is not None)
    if fields.same(one, other):
        assert fields.kind(one) == fields.kind(other)
    assert fields.same(one, other) == fields.same(other, one)


# -- hostile events ------------------------------------------------------------------------------


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
