"""The graph of images based on other images: order, cycles, descendants; pure."""

from __future__ import annotations

import graphlib
from collections.abc import Collection, Iterator, Mapping

from imageflow.model import Json
from imageflow.recipe import ImageRecipe

Parents = Mapping[str, Collection[str]]  # image -> the images it is based on or waits for


def parents(canonicals: Mapping[str, Json]) -> dict[str, tuple[str, ...]]:
    """For each image: its base, then those that `on:` names, each once; some may not be in `canonicals`."""
    return {name: tuple(dict.fromkeys(_parents(canonical))) for name, canonical in canonicals.items()}


def _parents(canonical: Json) -> Iterator[str]:
    image = ImageRecipe.from_json(canonical)
    if image.made_from.image:
        yield image.made_from.image
    yield from image.watched_images


def order(parents: Parents) -> list[str]:
    """Every name after all its parents; ties are ordered by name. Raises ValueError for a cycle."""
    sorter = _sorter(parents)
    try:
        sorter.prepare()
    except graphlib.CycleError:
        raise ValueError("images are made from each other") from None
    found: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        found += ready
        sorter.done(*ready)
    return found


def cycle(parents: Parents) -> list[str] | None:
    """A cycle of images, each based on the next, with the first one repeated at the end; None without a cycle."""
    try:
        _sorter(parents).prepare()
    except graphlib.CycleError as error:
        circle: list[str] = error.args[1][::-1]  # graphlib names parents first
        return circle
    return None


def _sorter(parents: Parents) -> graphlib.TopologicalSorter[str]:
    return graphlib.TopologicalSorter({name: sorted(parents[name]) for name in sorted(parents)})


def descendants(parents: Parents, name: str) -> set[str]:
    """All images based on this one, directly or not; not itself, unless in a cycle."""
    edges = children(parents)
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for below in edges.get(waiting.pop(), ()):
            if below not in found:
                found.add(below)
                waiting.append(below)
    return found


def children(parents: Parents) -> dict[str, list[str]]:
    """The reversed graph: image -> the images based on it, by name."""
    found: dict[str, list[str]] = {name: [] for name in parents}
    for name in sorted(parents):
        for parent in parents[name]:
            found.setdefault(parent, []).append(name)
    return found


def tree(parents: Parents, notes: Mapping[str, str] | None = None) -> str:
    """The graph as lines of text: each image below one of its parents, with the others named, once.

    An image with several parents stands below the last one in `order`. `notes`: text to append to a name. Raises ValueError for a cycle.
    """
    placed: dict[str | None, list[str]] = {}
    rank = {name: place for place, name in enumerate(order(parents))}
    for name in rank:
        above = max(parents.get(name, ()), key=rank.__getitem__, default=None)
        placed.setdefault(above, []).append(name)
    lines: list[str] = []
    waiting = [(name, "", "") for name in reversed(placed.get(None, []))]
    while waiting:
        name, lead, indent = waiting.pop()
        others = [parent for parent in sorted(set(parents.get(name, ()))) if name not in placed.get(parent, ())]
        also = f"  (also from {', '.join(others)})" if others else ""
        note = (notes or {}).get(name, "")
        lines.append(f"{lead}{name}{also}" + (f"  {note}" if note else ""))
        below = placed.get(name, [])
        for place in reversed(range(len(below))):
            last = place == len(below) - 1
            waiting.append((below[place], indent + ("└─ " if last else "├─ "), indent + ("   " if last else "│  ")))
    return "\n".join(lines)


def dot(parents: Parents) -> str:
    """The graph in Graphviz's language, an arrow from each image to those based on it."""
    lines = ["digraph images {", "  rankdir=LR;", "  node [shape=box];"]
    names = sorted({*parents, *(parent for above in parents.values() for parent in above)})
    lines += [f"  {_quoted(name)};" for name in names]
    lines += [
        f"  {_quoted(parent)} -> {_quoted(name)};" for name in sorted(parents) for parent in sorted(parents[name])
    ]
    return "\n".join([*lines, "}"])


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
