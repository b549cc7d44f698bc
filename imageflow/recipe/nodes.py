"""The content of a recipe file: scalars, lists and mappings with their lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imageflow.recipe.problems import short


@dataclass(slots=True, eq=False)
class Node:
    """A scalar, a list or a mapping with its location."""

    line: int  # from 1
    column: int
    value: Any = None  # of a scalar: str, int, float, bool, None
    text: str = ""  # a scalar as written
    items: list[Node] | None = None  # of a list
    keys: dict[str, Node] | None = None  # of a mapping
    lines: dict[str, int] = field(default_factory=dict)  # of a mapping: the line of each key
    merge: bool = False  # the key '<<'
    origin: str = ""  # '--set KEY' when it does not come from the file

    @property
    def data(self) -> Any:
        """Plain data; values shared by an alias are the same object, as in the YAML library."""
        return _plain(self, {})

    def describe(self, secret: bool = False) -> str:
        """A description for a message: `0644 is a number`."""
        if self.items is not None:
            return "is a list"
        if self.keys is not None:
            return "is a mapping"
        if self.value is None:
            return "is empty"
        kind = (
            "a boolean" if isinstance(self.value, bool) else "a number" if not isinstance(self.value, str) else "text"
        )
        return f"is {kind}" if secret else f"{short(self.text)} is {kind}"


def _plain(node: Node, made: dict[int, Any]) -> Any:
    if id(node) in made:
        return made[id(node)]
    if node.items is not None:
        items: list[Any] = []
        made[id(node)] = items
        items.extend(_plain(item, made) for item in node.items)
        return items
    if node.keys is not None:
        keys: dict[str, Any] = {}
        made[id(node)] = keys
        keys.update({key: _plain(item, made) for key, item in node.keys.items()})
        return keys
    return node.value
