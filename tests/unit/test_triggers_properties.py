"""Triggers by property: found by their probes whenever they match, logical, and never an exception."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, example, given
from hypothesis import strategies as st

from imageflow.events import conditions, fields, triggers
from imageflow.model import Event
from tests.examples import examples
from tests.unit.trigger_matching import rule

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


MANY = examples(3)


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
