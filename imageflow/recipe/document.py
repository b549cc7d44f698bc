"""A recipe file of either form as a list of images, with the location of every key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imageflow.recipe import elsewhere, problems
from imageflow.recipe.nodes import Node
from imageflow.recipe.problems import Problem, did_you_mean, dotted, path_name, short

EXTENSION = "x-"  # how top-level keys begin that are only there for YAML's anchors
_OURS = ("name", "method", "dib", "base", "iso", "configure", "publish", "on")  # none of diskimage-builder's


class Document:
    """The images of a file as nodes; paths begin with ("images", index)."""

    def __init__(self, name: str, images: list[Node], labels: Mapping[problems.Path, str]) -> None:
        self.name = name
        self.images = images
        self._labels = labels  # labels of paths whose keys are not in the file

    @classmethod
    def read(cls, path: Path) -> Document:
        """Read a file; raises RecipeError when it is not YAML, or has no list of images."""
        from imageflow.recipe import source  # YAML: not needed without a file to read

        name = path_name(path)
        root = source.parse(source.read(path), name)
        if root.items is not None:
            return _bare(root, name)
        return cls(name, _listed_images(root, name), {})

    def node(self, path: Sequence[str | int]) -> Node:
        """The value at the path, or its nearest existing ancestor."""
        return self._find(path)[0]

    def _find(self, path: Sequence[str | int]) -> tuple[Node, int]:
        """The node, and the line for messages: the key's, if it has one."""
        node = self.images[path[1]] if len(path) > 1 and isinstance(path[1], int) else Node(1, 1)
        line = node.line
        rest = list(path[2:])
        while rest:
            if node.items is not None and isinstance(rest[0], str):
                node, rest = _entry_of(node.items, rest)
            part = rest.pop(0)
            if node.keys is not None and isinstance(part, str) and part in node.keys:
                line = node.lines[part]
                node = node.keys[part]
            elif node.items is not None and isinstance(part, int) and part < len(node.items):
                node = node.items[part]
                line = node.line
            else:
                break
        return node, line

    def where(self, path: Sequence[str | int]) -> str:
        """FILE:LINE: KEY.PATH."""
        return self._place(path)[0]

    def _place(self, path: Sequence[str | int]) -> tuple[str, int]:
        node, line = self._find(path)
        at = node.origin or f"{self.name}:{line}"
        return f"{at}: {self._shown(tuple(path))}", line

    def problem(self, path: Sequence[str | int], message: str, hint: str = "") -> Problem:
        """A problem at this path."""
        place, line = self._place(path)
        return Problem(place, message, hint, line)

    def _shown(self, path: problems.Path) -> str:
        for end in range(len(path), 1, -1):
            label = self._labels.get(path[:end])
            if label is not None:
                rest = dotted(path[end:])
                return f"{label}.{rest}" if rest and not rest.startswith("[") else label + rest
        return dotted(path)


def _entry_of(entries: list[Node], path: list[str | int]) -> tuple[Node, list[str | int]]:
    """A path in a merged definition -> its source entry, and the path in that entry."""
    key, inner = path[0], path[1] if len(path) > 1 else None
    holders = [entry for entry in entries if entry.keys is not None and key in entry.keys]
    if isinstance(inner, int):
        for holder in holders:  # lists are concatenated
            items = (holder.keys or {})[str(key)].items or []
            if inner < len(items):
                return holder, [key, inner, *path[2:]]
            inner -= len(items)
    for holder in reversed(holders):  # for anything else, the last one wins
        if inner is None or inner in ((holder.keys or {})[str(key)].keys or {}):
            return holder, path
    return (entries[0] if entries else Node(1, 1)), path


def _listed_images(root: Node, name: str) -> list[Node]:
    found: list[Problem] = []

    def wrong(line: int, message: str, hint: str) -> None:
        found.append(Problem(f"{name}:{line}", message, hint, line))

    images: Node | None = None
    if root.keys is None:
        wrong(root.line, f"the recipe {root.describe()}", "write 'images:' and a list of images")
    else:
        for key in root.keys:
            if key != "images" and not key.startswith(EXTENSION):
                otherwise = f"a recipe has 'images:', and what begins with '{EXTENSION}' for YAML's anchors"
                hint = elsewhere.hint(key) or did_you_mean(key, ["images"], otherwise)
                wrong(root.lines[key], f"{short(key)}: there is no such key", hint)
        images = root.keys.get("images")
        if images is None:
            if not found:
                wrong(root.line, "images: is missing", "write 'images:' and a list of images")
        elif images.items is None:
            wrong(
                root.lines["images"],
                f"images: {images.describe()}, expected a list",
                "write '- name: …' for each image",
            )
        elif not images.items:
            wrong(root.lines["images"], "images: is empty", "add at least one image")
    if found or images is None:
        raise problems.error(found)
    return images.items or []


def _bare(root: Node, name: str) -> Document:
    """diskimage-builder's own file: a list of entries, several of which may be for the same image."""
    entries = root.items or []
    if not entries:
        raise problems.error([Problem(f"{name}:{root.line}", "is an empty list", "add at least one image", root.line)])
    for entry in entries:
        if word := next((key for key in entry.keys or {} if key in _OURS), None):
            message = f"is a list of images, and {word!r} is a key of imageflow's own"
            hint = "write 'images:' above the list"
            raise problems.error([Problem(f"{name}:{root.line}", message, hint, root.line)])
    groups: dict[str, list[int]] = {}
    current = "image"
    for index, entry in enumerate(entries):
        given = entry.keys.get("imagename") if entry.keys is not None else None
        if given is not None and isinstance(given.value, str):
            current = given.value
        groups.setdefault(current, []).append(index)
    images: list[Node] = []
    labels: dict[problems.Path, str] = {}
    for position, (imagename, members) in enumerate(groups.items()):
        first = entries[members[0]]
        keys = {
            "name": Node(first.line, first.column, _image_name(imagename), imagename),
            "method": Node(first.line, first.column, "dib", "dib"),
            "dib": Node(first.line, first.column, items=[entries[index] for index in members]),
        }
        images.append(Node(first.line, first.column, keys=keys, lines=dict.fromkeys(keys, first.line)))
        labels["images", position, "name"] = f"[{members[0]}].imagename"
        labels["images", position, "dib"] = f"[{members[0]}]"
        labels |= {("images", position, "dib", nth): f"[{index}]" for nth, index in enumerate(members)}
    return Document(name, images, labels)


def _image_name(imagename: str) -> str:
    """An image's name from diskimage-builder's, which may be a path with the type as suffix."""
    last = imagename.rsplit("/", 1)[-1]
    stem, dot, suffix = last.rpartition(".")
    return stem if dot and suffix in ("qcow2", "raw", "tar", "tgz", "squashfs", "vhd", "aci") else last


def entries(image: Node) -> list[Any]:
    """The entries of the image's definition as plain data; [] when there are none."""
    node = (image.keys or {}).get("dib")
    data = node.data if node is not None else []
    return data if isinstance(data, list) else [data]
