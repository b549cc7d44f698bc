"""The stored names of pins, KIND or KIND:REST; only this module composes and parses them.

They are part of build keys: never rename one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from imageflow.model import Json


class Kind(StrEnum):
    """The kinds of pins; the comments give the rest of the name and the value."""

    BASE = "base"  # image:NAME, digest | file, SHA-256 | url, SHA-256 | glance:NAME, 'ID:ALGORITHM:HEX'
    ISO = "iso"  # nothing, SHA-256 | glance:NAME, 'ID:ALGORITHM:HEX'
    IMAGE = "image"  # NAME of an image whose new versions trigger this one, digest
    GIT = "git"  # URL#REF from an event, commit
    WATCH = "watch"  # a watched place that is not an input itself, its content
    FILE = "file"  # path from the recipe's folder, SHA-256
    ELEMENT = "element"  # NAME, digest of its tree
    TOOL = "tool"  # NAME, version
    ARCHIVE = "archive"  # SUITE, SHA-256 of its signed Release file | nothing, 'unpinned: WHY'


@dataclass(frozen=True, slots=True)
class PinName:
    """A parsed pin name."""

    kind: str  # a Kind, or a single name: architecture, diskimage-builder, imageflow
    rest: str = ""

    @classmethod
    def parse(cls, text: str) -> PinName:
        """Parse a stored name."""
        kind, _, rest = text.partition(":")
        return cls(kind, rest)

    def __str__(self) -> str:
        return f"{self.kind}:{self.rest}" if self.rest else self.kind


@dataclass(frozen=True, slots=True)
class Pins:
    """The pinned inputs of an image; `data`: stored name -> value."""

    data: Json

    def __iter__(self) -> Iterator[tuple[PinName, Any]]:
        """In stored order."""
        return ((PinName.parse(name), value) for name, value in self.data.items())

    def of(self, kind: Kind) -> dict[str, str]:
        """The pins of a kind, by the rest of their names."""
        return {name.rest: value for name, value in self if name.kind == kind}

    def made_from(self, kind: Kind) -> tuple[str, str]:
        """(rest of the name, value) of the only pin of a kind: the base or the ISO."""
        [(rest, value)] = self.of(kind).items()
        return rest, value

    def file(self, name: str) -> str | None:
        """The digest of a local file, by its name in the recipe; None when it is not pinned."""
        return self.data.get(str(PinName(Kind.FILE, name)))

    def files_below(self, folder: str) -> dict[str, str]:
        """The files in a local folder, by their paths from the recipe's folder."""
        start = f"{folder.rstrip('/')}/"
        return {name: digest for name, digest in self.of(Kind.FILE).items() if name.startswith(start)}


def pin_name(kind: Kind, rest: str = "") -> str:
    """The stored name of a pin."""
    return str(PinName(kind, rest))


def select(pins: Mapping[str, str], *kinds: Kind) -> dict[str, str]:
    """The pins of these kinds, by their full names."""
    return {called: value for called, value in pins.items() if PinName.parse(called).kind in kinds}
