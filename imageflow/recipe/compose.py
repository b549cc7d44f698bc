"""Builds a tree from the events of the YAML parser.

The parser's own composer recurses on nesting, accepts duplicate keys, and knows tags that create objects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from imageflow.errors import RecipeError
from imageflow.recipe import parsing, problems
from imageflow.recipe.nodes import Node
from imageflow.recipe.plain_secrets import keeps_secret
from imageflow.recipe.problems import Problem, short

MAX_NUMBER = 2**53 - 1  # every JSON implementation represents it exactly

# characters that YAML itself does not allow: NUL, control characters, lone surrogates
UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null")}


def unprintable(found: re.Match[str]) -> str:
    """The message about an invalid character."""
    what = "a NUL" if found[0] == "\0" else f"the control character U+{ord(found[0]):04X}"
    return f"there is {what} in the text"


@dataclass(slots=True)
class _Frame:
    """A list or mapping being read."""

    node: Node
    anchor: str | None
    key: Node | None = None  # of a mapping: the key whose value comes next
    merges: list[Node] = field(default_factory=list)  # of a mapping: the values of '<<'


class Composer:
    """Builds the tree of one document; `name` is used in messages."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.frames: list[_Frame] = []
        self.anchors: dict[str, Node] = {}
        self.root: Node | None = None

    def compose(self, text: str) -> Node:
        try:
            for event, loader in parsing.events(text):
                self._take(event, loader)
        except parsing.TooMuch as error:
            hint = "a recipe never is" if isinstance(error, parsing.TooDeep) else error.hint
            raise self._stop(error.line, error.message, hint) from None
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

    def _stop(self, line: int, message: str, hint: str) -> RecipeError:
        """An error after which reading on is pointless."""
        return problems.error([*self.problems, self._problem(line, message, hint)])

    def _problem(self, line: int, message: str, hint: str) -> Problem:
        return Problem(f"{self.name}:{line}", message, hint, line)

    def _take(self, event: yaml.Event, loader: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            if self.root is not None:
                mark: Any = event.start_mark
                raise self._stop(
                    mark.line + 1, "a second YAML document begins", "a recipe is one document: remove the '---'"
                )
        elif isinstance(event, yaml.AliasEvent):
            self._place(self.anchors[event.anchor or ""])
        elif isinstance(event, yaml.ScalarEvent):
            node = self._scalar(event, loader)
            if event.anchor:
                self.anchors[event.anchor] = node
            self._place(node)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()

    def _open(self, event: Any) -> None:
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
        self.frames.append(_Frame(node, event.anchor))

    def _close(self) -> None:
        frame = self.frames.pop()
        if frame.node.keys is not None:
            self._merge(frame)
        if frame.anchor:
            self.anchors[frame.anchor] = frame.node
        self._place(frame.node)

    def _place(self, node: Node) -> None:
        """Put a finished node where it belongs."""
        if not self.frames:
            self.root = node
            return
        frame = self.frames[-1]
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
        # YAML 1.1 reads on, off, yes and no as booleans, which is never meant in a key
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
        """`<<: *other`: the keys of others that this mapping does not have itself."""
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
        """A value as a message may quote it."""
        key = self.frames[-1].key if self.frames else None
        return "this value" if key is not None and keeps_secret(key.text) else short(node.text)

    def _number(self, node: Node, tag: str, loader: Any) -> None:
        """Set the node's value from its text."""
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
