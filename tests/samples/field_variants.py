"""Variants of a document, each with one thing wrong: a field that is missing, or has an unexpected value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

AWKWARD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 10**30, 1.5),
    *("", "main", "a\nb", "\ud800", "\x00", "x" * 5000),
    *("0" * 40, "a" * 40, "refs/heads/main", "refs/tags/v1"),
    *("https://u:p@h/x", "http://[", "2026-01-31T12:00:00Z", "0001-01-01T00:00:00+23:59"),
    *([], [[]], [{}], [None], [1, 2], ["a"]),
    *({}, {"a": 1}, {"ref": 5}, {"name": []}, {"full_name": {}}, {"url": 1}),
)


def variants(document: Any) -> Iterator[Any]:
    """Every variant of the document that differs in one place: an awkward value, or none."""
    yield from AWKWARD
    if isinstance(document, dict):
        for name, value in document.items():
            rest = {other: kept for other, kept in document.items() if other != name}
            yield rest
            yield from ({**rest, name: another} for another in variants(value))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            before, after = document[:index], document[index + 1 :]
            yield [*before, *after]
            yield from ([*before, another, *after] for another in variants(value))
