"""Checks autoinstall answers against their JSON Schema, and says what is wrong in words of the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from imageflow.iso.answers.problem import AnswerProblem
from imageflow.recipe.problems import did_you_mean, dotted, listed, short

_FILE = "autoinstall.json"
_WORDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "boolean": "true or false",
    "null": "empty",
}
_OPEN = (
    "ssh",
    "source",
    "codecs",
    "drivers",
    "oem",
    "kernel",
)  # mappings in which the installer ignores what it does not know
_COMMANDS = ("early-commands", "late-commands", "error-commands")


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(resources.files(__package__).joinpath(_FILE).read_bytes())
    return schema


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(_schema())


@cache
def known_keys() -> frozenset[str]:
    """The keys below `autoinstall`."""
    return frozenset(_schema()["properties"])


def known_below(key: str) -> frozenset[str]:
    """The keys below one of `_OPEN`, where the installer reads over others; empty for another key."""
    return frozenset(_schema()["properties"][key]["properties"]) if key in _OPEN else frozenset()


def problems(answers: dict[str, Any], node: yaml.MappingNode) -> Iterator[AnswerProblem]:
    """What the installer's own check refuses; `node` is where the answers stand in the file."""
    for error in _validator().iter_errors(answers):
        path = [*error.absolute_path]
        if path[:1] != ["shutdown"]:  # ours replaces it
            yield AnswerProblem(line(node, path), *_said(error, path))


def value(node: Any, key: str | int) -> Any:
    """The value's node below a key of a mapping or an index of a list; None without one."""
    if isinstance(node, yaml.MappingNode):
        found = [below for name, below in node.value if name.value == str(key)]
        return found[-1] if found else None
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key]
    return None


def line(node: Any, path: Sequence[str | int]) -> int:
    """The line, from 1, of the deepest key of the path that is there."""
    found = int(node.start_mark.line) + 1
    for key in path:
        if isinstance(node, yaml.MappingNode):
            names = [name for name, _ in node.value if name.value == str(key)]
            found = int(names[-1].start_mark.line) + 1 if names else found
        node = value(node, key)
        if node is None:
            return found
        if isinstance(key, int):
            found = int(node.start_mark.line) + 1
    return found


def _said(error: Any, path: list[str | int]) -> tuple[str, str]:
    """Message and hint."""
    name, given = dotted(path) or "autoinstall", error.instance
    if path and path[0] in _COMMANDS and len(path) > 1:
        return _command(name, given)
    if error.validator == "type":
        wanted = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        words = listed(_WORDS[kind] for kind in wanted)
        return f"{name} is {_kind(given)}, {words} is wanted", _quotes(given, wanted)
    if error.validator == "required":
        missing = next((key for key in error.validator_value if key not in given), "")
        return f"{name} has no {missing!r}", "add 'version: 1'" if missing == "version" else f"add {missing}:"
    if error.validator == "additionalProperties" and isinstance(given, dict):
        known = error.schema.get("properties", {})
        other = next((str(key) for key in given if key not in known), "")
        return f"{name} has no key {short(other)!r}", did_you_mean(other, known, listed(known))
    if error.validator in ("enum", "const"):
        allowed = error.validator_value if error.validator == "enum" else [error.validator_value]
        return (
            f"{name}: {short(given)!r} is not known",
            f"write {listed(json.dumps(one).strip(chr(34)) for one in allowed)}",
        )
    if error.validator in ("minimum", "maximum"):
        return f"{name}: {short(given)} is not known", f"write {error.validator_value}"
    if error.validator == "oneOf":
        return f"{name} needs one of {listed(error.schema.get('properties', {}))}", "write one of them"
    if error.validator == "pattern":
        return f"{name} does not look like one", "copy it again"
    return f"{name}: {short(error.message, 200)}", ""


def _command(name: str, given: Any) -> tuple[str, str]:
    if isinstance(given, dict):
        hint = "put the whole command between quotes, with '' for each ' in it; or write it on the line below '- |'"
        return f"{name} became a mapping, as there is ': ' in the command", hint
    if isinstance(given, list):
        return f"{name} is a list in a list", "a command is text, or a list of its words"
    return f"{name} is {_kind(given)}, a command's words are text", f"put it between quotes: '{short(given)}'"


def _quotes(given: Any, wanted: Sequence[str]) -> str:
    if wanted == ["boolean"] and isinstance(given, str):
        return "write true or false, without quotes"
    if "string" in wanted and isinstance(given, bool | int | float):
        return f"put it between quotes: '{short(given)}'"
    if wanted == ["array"] and given is not None:
        return "begin each line with '- '"
    if given is None:
        return "remove the key, or write a value"
    return ""


def _kind(given: Any) -> str:
    if isinstance(given, bool):
        return "true or false"
    kinds = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        int: "a whole number",
        float: "a number",
        type(None): "empty",
    }
    return kinds.get(type(given), "a date")
