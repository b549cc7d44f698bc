"""The events of the YAML parser put together, one by one.

The parser's own composer recurses on nesting, expands aliases without a limit, takes the last of two
equal keys, and knows tags that make objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from imageflow.errors import RecipeError
from imageflow.recipe import problems
from imageflow.recipe.definition import keeps_secret
from imageflow.recipe.nodes import Node
from imageflow.recipe.problems import Problem, short

MAX_NODES = 100_000  # after aliases are expanded
MAX_DEPTH = 40
MAX_NUMBER = 2**53 - 1  # what JSON carries exactly everywhere

# what YAML itself does not allow as text: NUL, control characters, lone surrogates
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null")}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def unprintable(found: re.Match[str]) -> str:
    """What is wrong with a character."""
    what = "a NUL" if found[0] == "\0" else f"the control character U+{ord(found[0]):04X}"
    return f"there is {what} in the text"


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is being read."""

    node: Node
    anchor: str | None
    key: Node | None = None  # of a mapping: the key whose value comes next
    merges: list[Node] = field(default_factory=list)  # of a mapping: what '<<' names
    size: int = 1


class Composer:
    """Builds the tree of one document; `name` stands in messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.frames: list[_Frame] = []
        self.anchors: dict[str, tuple[Node, int]] = {}  # node, its size with aliases expanded
        self.nodes = 0
        self.root: Node | None = None

    def compose(self, text: str) -> Node:
        try:
            for event, loader in _events(text):
                self._take(event, loader)
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error, text) from None
        except yaml.YAMLError:
            raise RecipeError(f"{self.name}: is not YAML", hint="check it with a YAML linter") from None
        if self.problems:
            raise problems.error(self.problems)
        if self.root is None or (self.root.items is None and self.root.keys is None and self.root.value is None):
            raise RecipeError(f"{self.name}:1: is empty", hint="write 'images:' and a list of images")
        return self.root

    def _syntax(self, error: yaml.MarkedYAMLError, text: str) -> RecipeError:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line, mark.column) if mark else (0, 0)
        lines = text.split("\n")
        here = lines[line] if line < len(lines) else ""
        hint = "check quotes, brackets and indentation there"
        if "\t" in here[: len(here) - len(here.lstrip())]:
            hint = "indent with spaces, YAML allows no tabs there"
        what = f"{error.context}: {error.problem}" if error.context else str(error.problem)
        return RecipeError(f"{self.name}:{line + 1}:{column + 1}: is not YAML: {short(what, 200)}", hint=hint)

    def _stop(self, event: Any, message: str, hint: str) -> RecipeError:
        """What makes reading on pointless."""
        return problems.error([*self.problems, self._problem(event.start_mark.line + 1, message, hint)])

    def _problem(self, line: int, message: str, hint: str) -> Problem:
        return Problem(f"{self.name}:{line}", message, hint, line)

    def _take(self, event: yaml.Event, loader: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            if self.root is not None:
                raise self._stop(event, "a second YAML document begins", "a recipe is one document: remove the '---'")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, loader)
            if event.anchor:
                self.anchors[event.anchor] = (node, 1)
            self._add(node, 1, event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(event)

    def _open(self, event: Any) -> None:
        if len(self.frames) >= MAX_DEPTH:
            raise self._stop(event, f"is nested deeper than {MAX_DEPTH} levels", "a recipe never is")
        mark = event.start_mark
        node = Node(mark.line + 1, mark.column + 1)
        if isinstance(event, yaml.SequenceStartEvent):
            node.items = []
            wanted = f"{_TAG}seq"
        else:
            node.keys = {}
            wanted = f"{_TAG}map"
        if event.tag not in (None, "!", wanted):
            self._tag(node.line, event.tag)
        self._count(1, event)
        if event.anchor:
            self.anchors.pop(event.anchor, None)
        self.frames.append(_Frame(node, event.anchor))

    def _close(self, event: yaml.Event) -> None:
        frame = self.frames.pop()
        if frame.node.keys is not None:
            self._merge(frame)
        if frame.anchor:
            self.anchors[frame.anchor] = (frame.node, frame.size)
        self._place(frame.node, frame.size)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            if any(frame.anchor == event.anchor for frame in self.frames):
                raise self._stop(event, f"*{short(event.anchor)} refers to itself", "an alias can't contain itself")
            raise self._stop(
                event, f"*{short(event.anchor)} refers to nothing", f"define &{short(event.anchor)} before it"
            )
        node, size = self.anchors[event.anchor]
        self._add(node, size, event)

    def _add(self, node: Node, size: int, event: Any) -> None:
        self._count(size, event)
        self._place(node, size)

    def _count(self, size: int, event: Any) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            raise self._stop(event, f"expands to more than {MAX_NODES:,} values", "use fewer aliases")

    def _place(self, node: Node, size: int) -> None:
        """Put a finished node where it belongs."""
        if not self.frames:
            self.root = node
            return
        frame = self.frames[-1]
        frame.size += size
        if frame.node.items is not None:
            frame.node.items.append(node)
        elif frame.key is None:
            frame.key = node
        else:
            key, frame.key = frame.key, None
            self._pair(frame, key, node)

    def _pair(self, frame: _Frame, key: Node, node: Node) -> None:
        assert frame.node.keys is not None
        if key.merge:
            frame.merges.append(node)
            return
        if key.items is not None or key.keys is not None:
            self.problems.append(self._problem(key.line, f"a key {key.describe()}", "keys are text"))
            return
        # YAML 1.1 reads on, off, yes and no as booleans; nobody means that in a key
        name = key.text if isinstance(key.value, bool) else key.value
        if not isinstance(name, str):
            self.problems.append(
                self._problem(key.line, f"the key {key.describe()}", f'write it in quotes: "{short(key.text)}"')
            )
            return
        if name in frame.node.keys:
            first = frame.node.lines[name]
            self.problems.append(
                self._problem(
                    key.line, f"the key {short(name)!r} is there twice, first in line {first}", "keep one of them"
                )
            )
            return
        frame.node.keys[name] = node
        frame.node.lines[name] = key.line

    def _merge(self, frame: _Frame) -> None:
        """`<<: *other`: the keys of others where this mapping has none of its own."""
        assert frame.node.keys is not None
        for merged in frame.merges:
            for other in merged.items if merged.items is not None else [merged]:
                if other.keys is None:
                    self.problems.append(self._problem(other.line, f"'<<' {other.describe()}", "it merges mappings"))
                    continue
                for name, node in other.keys.items():
                    if name not in frame.node.keys:
                        frame.node.keys[name] = node
                        frame.node.lines[name] = other.lines[name]

    def _tag(self, line: int, tag: str) -> None:
        shown = "!!" + tag[len(_TAG) :] if tag.startswith(_TAG) else tag
        self.problems.append(
            self._problem(
                line, f"the tag {short(shown)} is not allowed", "a recipe is plain text, numbers, lists and mappings"
            )
        )

    def _scalar(self, event: Any, loader: Any) -> Node:
        line, column, text = event.start_mark.line + 1, event.start_mark.column + 1, event.value
        node = Node(line, column, text, text)
        tag = event.tag
        if tag in (None, "!"):
            implicit = event.implicit if tag is None else (False, True)
            tag = loader.resolve(yaml.ScalarNode, text, implicit)
        if tag in (f"{_TAG}merge", f"{_TAG}value"):
            node.merge = text == "<<"
            return node
        if tag not in _PLAIN_TAGS:
            if tag == f"{_TAG}timestamp":
                self.problems.append(
                    self._problem(line, f"{self._shown(node)} is a date in YAML", "write it in quotes")
                )
            else:
                self._tag(line, tag)
            return node
        if found := UNPRINTABLE.search(text):
            self.problems.append(self._problem(line, unprintable(found), "remove it"))
        self._number(node, tag, loader)
        return node

    def _shown(self, node: Node) -> str:
        """A value as a message may repeat it."""
        key = self.frames[-1].key if self.frames else None
        return "this value" if key is not None and keeps_secret(key.text) else short(node.text)

    def _number(self, node: Node, tag: str, loader: Any) -> None:
        """Give the node the value that its text stands for."""
        if tag == f"{_TAG}str":
            return
        try:
            node.value = loader.construct_object(yaml.ScalarNode(tag, node.text))
        except (ValueError, KeyError, IndexError, OverflowError, yaml.YAMLError):
            self.problems.append(
                self._problem(node.line, f"{self._shown(node)} can't be read as a number", "write it in quotes")
            )
            return
        if isinstance(node.value, int) and abs(node.value) > MAX_NUMBER:
            self.problems.append(
                self._problem(
                    node.line, f"{self._shown(node)} is too large a number", "write it in quotes if it is text"
                )
            )
            node.value = 0
        elif isinstance(node.value, float) and not abs(node.value) < float("inf"):
            self.problems.append(
                self._problem(
                    node.line, f"{self._shown(node)} is not a finite number", "write it in quotes if it is text"
                )
            )
            node.value = 0


def _events(text: str) -> Iterator[tuple[yaml.Event, Any]]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event(), loader
    finally:
        loader.dispose()
