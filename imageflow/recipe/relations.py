"""Finds duplicate names and cycles among the images of one recipe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from imageflow.recipe.document import Document
from imageflow.recipe.nodes import Node
from imageflow.recipe.problems import Path, Problem, short

_MANY = 30  # cycles that are reported
_SHOWN = 10  # images of a cycle that are named


def name_of(image: Node) -> str | None:
    """Its name, if it has one."""
    return _text((image.keys or {}).get("name"))


def _text(node: Node | None) -> str | None:
    return node.value if node is not None and isinstance(node.value, str) else None


def doubles(document: Document) -> Iterator[Problem]:
    """Images of the same name."""
    first: dict[str, int] = {}
    for index, image in enumerate(document.images):
        name = name_of(image)
        if name is None:
            continue
        if name in first:
            line = document.images[first[name]].line
            yield document.problem(
                ("images", index, "name"),
                f"a second image {short(name)!r}, the first is in line {line}",
                "give it another name",
            )
        first.setdefault(name, index)


def circles(document: Document) -> Iterator[Problem]:
    """Images that are made from each other, or whose `on:` wait for each other, whatever their method."""
    yield from itertools.islice(_circles(document), _MANY)


def _circles(document: Document) -> Iterator[Problem]:
    edges: dict[str, dict[str, Path]] = {}  # image -> the images it depends on, with the path of the key
    for index, image in enumerate(document.images):
        name = name_of(image)
        if name is not None and name not in edges:
            edges[name] = {parent: ("images", index, *path) for parent, path in _parents(image) if parent != name}
            if name == _base(image):
                edges[name][name] = ("images", index, "base")
    done: set[str] = set()
    for start in edges:
        chain: dict[str, Iterator[str]] = {}  # the current path in order, each with its remaining edges
        waiting = [start]
        while waiting:
            name = waiting.pop()
            if name not in done and name not in chain:
                chain[name] = iter(edges[name])
            while chain:
                name = next(reversed(chain))
                parent = next(chain[name], None)
                if parent is None:
                    done.add(name)
                    del chain[name]
                elif parent in chain:
                    yield _circle(document, edges, [*chain][[*chain].index(parent) :])
                elif parent in edges and parent not in done:
                    waiting.append(parent)
                    break


def _circle(document: Document, edges: dict[str, dict[str, Path]], members: list[str]) -> Problem:
    """The problem, placed at the first image of the cycle."""
    places = [edges[name][of] for name, of in zip(members, [*members[1:], members[0]], strict=True)]
    named = members if len(members) <= _SHOWN else [*members[: _SHOWN - 1], "…"]
    shown = " → ".join(map(short, [*named, members[0]]))
    if all(place[-1] == "base" for place in places):
        return document.problem(places[0], f"cyclic base: {shown}", "an image can't be built from itself")
    hint = "an image can't be built after itself: remove one of them"
    return document.problem(places[0], f"cyclic base and 'on': {shown}", hint)


def _parents(image: Node) -> Iterator[tuple[str, Path]]:
    """Names of other images with their paths; the base last, as it is more specific."""
    on = (image.keys or {}).get("on")
    for position, entry in enumerate((on.items if on is not None else None) or []):
        if (name := _text((entry.keys or {}).get("image"))) is not None:
            yield name, ("on", position, "image")
    if (name := _base(image)) is not None:
        yield name, ("base",)


def _base(image: Node) -> str | None:
    base: Any = (image.keys or {}).get("base")
    return _text((base.keys or {}).get("image")) if base is not None else None
