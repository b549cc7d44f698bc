"""Turns pydantic's errors into our messages, each with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from imageflow.recipe import definition, plain_secrets
from imageflow.recipe.document import Document
from imageflow.recipe.problems import Path, Problem, did_you_mean, listed, short

_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_LIMITS = {
    "greater_than": ("too small", "more than {gt:g}"),
    "greater_than_equal": ("too small", "{ge:g} or more"),
    "less_than": ("too large", "less than {lt:g}"),
    "less_than_equal": ("too large", "at most {le:g}"),
}


def problem_of(document: Document, prefix: Path, error: Any, method: str) -> Problem:
    """One entry of pydantic's `ValidationError.errors()` as a problem below `prefix`."""
    from imageflow.recipe import models
    from imageflow.recipe.on import KINDS

    loc: Path = tuple(part for part in error["loc"] if part != "[key]")
    path = (*prefix, *(loc if loc[:1] != ("on",) else (*loc[:2], *loc[3:])))  # without the trigger's kind
    kind, context = error["type"], error.get("ctx", {})
    if kind == "imageflow":
        return document.problem(path, context["message"], context["hint"])
    if kind in _WANTED:
        return wrong_type(document, path, _WANTED[kind])
    if kind == "missing":
        return document.problem(path, "is missing", _example(str(loc[-1])))
    if kind == "extra_forbidden":
        return document.problem(path, "there is no such key", models.mean(loc[:-1], str(loc[-1]), method))
    if kind == "literal_error":
        allowed = [word.strip(" '") for word in context["expected"].replace(" or ", ", ").split(",")]
        given = short(error["input"])
        return document.problem(path, f"{given!r} is not possible", did_you_mean(given, allowed, listed(allowed)))
    if kind in _LIMITS:
        what, limit = _LIMITS[kind]
        return document.problem(path, f"{short(error['input'])} is {what}", limit.format(**context))
    if kind == "union_tag_not_found" and document.node(path).keys is not None:
        return document.problem(path, "is not a trigger", f"each entry has one of {listed(KINDS)}")
    if kind == "union_tag_not_found":
        return wrong_type(document, path, "a mapping")
    if kind == "too_long":
        return document.problem(path, "has too many entries", f"at most {context['max_length']}")
    if kind == "too_short":
        return document.problem(path, "is empty", "add an entry, or remove the key")
    return document.problem(path, short(error["msg"]))


def wrong_type(document: Document, path: Path, wanted: str) -> Problem:
    """The problem of a value with a wrong type."""
    node = document.node(path)
    secret = any(isinstance(part, str) and plain_secrets.keeps_secret(part) for part in path)
    hint = ""
    if wanted == "text" and node.items is None and node.keys is None and node.value is not None:
        hint = "write it in quotes" if secret else f'write it in quotes: "{short(node.text)}"'
    elif wanted == "text" and node.value is None and node.items is None and node.keys is None:
        hint = 'write "" for an empty text'
    elif wanted == "a list" and isinstance(node.value, str) and not secret:
        hint = f"write [{short(node.text)}]"
    return document.problem(path, f"{node.describe(secret)}, expected {wanted}", hint)


def _example(key: str) -> str:
    return {
        "name": "add 'name: NAME'",
        "method": "add 'method: dib', boot or install",
        "dib": "add diskimage-builder's definition, at least 'elements'",
        "base": "add 'base: {image: NAME}', {file: PATH}, {glance: NAME} or {url: URL, sha256: DIGEST}",
        "iso": "add 'iso: {file: PATH}', {glance: NAME} or {url: URL, sha256: DIGEST}",
        "answers": "add 'answers: {preseed: FILE}', kickstart, autoinstall or autoyast",
        "ref": "add 'ref: main', or another branch",
        "event": "add 'event: TYPE', such as git.push",
        "path": "add 'path: /WHERE/IN/THE/IMAGE'",
    }.get(key, "")


def faults_of(document: Document, prefix: Path, single: bool, faults: Iterator[definition.Fault]) -> Iterator[Problem]:
    """A definition's faults as problems; `single`: it is a mapping, not a list of one."""
    for fault in faults:
        path = (*prefix, *(fault.path[1:] if single else fault.path))
        if fault.wanted:
            yield wrong_type(document, path, fault.wanted)
        else:
            yield document.problem(path, fault.message, fault.hint)
