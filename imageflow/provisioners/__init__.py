"""What `configure` can do to a booted machine: one provisioner a file, each an entry point `imageflow.provisioners`.

The entry point's name is the key in a recipe: `- packages: [nginx]` is done by `packages`. An entry runs
again after a crash or a resume, so everything a provisioner does must be fine a second time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import stevedore

from imageflow.control import Control
from imageflow.errors import ConfigError
from imageflow.guest import Access, Guest
from imageflow.model import Json

ENTRY_POINTS = "imageflow.provisioners"


@dataclass(frozen=True, slots=True)
class Context:
    """What a provisioner works with."""

    guest: Guest
    access: Access  # how to reach the machine: for tools that connect themselves, such as ansible
    folder: Path  # of the recipe: local files are relative to it
    pins: Json  # "file:REL" -> SHA-256: what a local file must still be (check with `pinned`)
    work: Path  # a scratch folder on this machine, empty, removed afterwards
    control: Control
    log: Callable[[str], None]
    progress: Callable[[float, str], None]
    secret: Callable[[str], str]


class Provisioner(Protocol):
    """One key of `configure`; a class without state."""

    def title(self, value: Any) -> str:
        """What an operator reads, under 60 characters: 'packages nginx, curl'."""

    def sources(self, value: Any) -> Sequence[str]:
        """Local files and folders that it uses, relative to the recipe's folder: they are pinned."""

    def check(self, value: Any, folder: Path) -> None:
        """Raise RecipeError or Refused (a tool is missing on this host) for what can be known before a build."""

    def apply(self, value: Any, context: Context) -> None:
        """Do it; `value` is the canonical form of the recipe's value."""


@functools.cache
def find(kind: str) -> Provisioner:
    """The provisioner for a key of `configure`."""
    for point in stevedore.NamedExtensionManager(ENTRY_POINTS, []).list_entry_points():
        if point.name == kind:
            made: Provisioner = point.load()()
            return made
    raise ConfigError(f"there is no provisioner {kind!r}", hint="is the package that brings it installed?")


def kinds() -> list[str]:
    """The keys that an entry of `configure` can have."""
    return sorted(point.name for point in stevedore.NamedExtensionManager(ENTRY_POINTS, []).list_entry_points())
