"""The graph of images that are made from images."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.registry import lineage

DIAMOND = {"web": ["base"], "db": ["base"], "all": ["web", "db"], "base": [], "other": ["elsewhere"]}


def test_parents_of_recipes() -> None:
    canonicals = {
        "base": {"name": "base", "method": "dib", "on": [{"schedule": "0 3 * * *", "timezone": "UTC", "jitter": 0.0}]},
        "web": {"name": "web", "base": {"image": "base"}, "on": [{"image": "tools"}, {"image": "base"}]},
        "old": {"name": "old", "base": {"url": "http://x/y", "sha256": "0" * 64}},
    }
    assert lineage.parents(canonicals) == {"base": (), "web": ("base", "tools"), "old": ()}


def test_a_diamond() -> None:
    assert lineage.order(DIAMOND) == ["base", "elsewhere", "db", "other", "web", "all"]
    assert lineage.descendants(DIAMOND, "base") == {"web", "db", "all"}
    assert lineage.descendants(DIAMOND, "elsewhere") == {"other"}
    assert lineage.descendants(DIAMOND, "all") == lineage.descendants(DIAMOND, "unknown") == set()
    assert lineage.cycle(DIAMOND) is None


def test_the_tree() -> None:
    assert lineage.tree(DIAMOND, {"base": "3 versions"}) == (
        "base  3 versions\n├─ db\n└─ web\n   └─ all  (also from db)\nelsewhere\n└─ other"
    )
    assert lineage.tree({}) == ""


def test_dot() -> None:
    assert '  "web" -> "all";' in lineage.dot(DIAMOND)
    assert lineage.dot({'a"b\\': []}).splitlines()[3] == '  "a\\"b\\\\";'


def test_a_cycle_names_each_before_what_it_is_made_from() -> None:
    found = lineage.cycle({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]})
    assert found is not None
    assert found in (["a", "b", "c", "a"], ["b", "c", "a", "b"], ["c", "a", "b", "c"])
    assert lineage.cycle({"a": ["a"]}) == ["a", "a"]
    with pytest.raises(ValueError, match="made from each other"):
        lineage.order({"a": ["a"]})


NAMES = [f"image{n}" for n in range(9)]
GRAPHS = st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
ACYCLIC = GRAPHS.map(lambda graph: {name: [of for of in above if of < name] for name, above in graph.items()})


@given(graph=ACYCLIC, seed=st.integers())
def test_every_image_comes_after_its_parents_whatever_the_order_they_are_told_in(
    graph: dict[str, list[str]], seed: int
) -> None:
    order = lineage.order(graph)
    place = {name: at for at, name in enumerate(order)}
    assert sorted(order) == sorted({*graph, *(of for above in graph.values() for of in above)})
    assert all(place[of] < place[name] for name, above in graph.items() for of in above)
    mixed = random.Random(seed)
    names = list(graph)
    mixed.shuffle(names)
    assert lineage.order({name: mixed.sample(graph[name], len(graph[name])) for name in names}) == order


@given(graph=GRAPHS)
def test_a_cycle_is_one_and_without_one_there_is_an_order(graph: dict[str, list[str]]) -> None:
    found = lineage.cycle(graph)
    if found is None:
        lineage.order(graph)
    else:
        assert found[0] == found[-1] and len(set(found)) == len(found) - 1
        assert all(after in graph[name] for name, after in itertools.pairwise(found))


@given(graph=GRAPHS, name=st.sampled_from(NAMES))
def test_descendants_are_what_is_made_from_it_and_theirs(graph: dict[str, list[str]], name: str) -> None:
    made = {one for one, parents in graph.items() if name in parents}
    assert lineage.descendants(graph, name) == made.union(*(lineage.descendants(graph, one) for one in made))


@given(graph=ACYCLIC)
def test_the_tree_has_each_image_once_and_every_edge(graph: dict[str, list[str]]) -> None:
    lines = lineage.tree(graph).splitlines()
    shown = [line.lstrip("│├└─ ") for line in lines]
    assert sorted(each.split("  ")[0] for each in shown) == sorted(lineage.order(graph))
    depths = [len(line) - len(line.lstrip("│├└─ ")) for line in lines]
    for at, each in enumerate(shown):
        name, _, rest = each.partition("  ")
        above = next((shown[n].split("  ")[0] for n in range(at, -1, -1) if depths[n] < depths[at]), None)
        also = set(rest.removeprefix("(also from ").removesuffix(")").split(", ")) - {""}
        assert also | ({above} - {None}) == set(graph.get(name, ()))


def test_long_chains() -> None:
    graph = {f"{n:05}": [f"{n - 1:05}"] for n in range(1, 5000)}
    assert lineage.order(graph) == sorted({*graph, "00000"})
    assert len(lineage.descendants(graph, "00000")) == 4999
    assert len(lineage.tree(graph).splitlines()) == 5000
    circle = lineage.cycle(graph | {"00000": ["04999"]})
    assert circle is not None and len(circle) == 5001
