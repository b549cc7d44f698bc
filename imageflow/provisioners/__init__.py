"""What `configure` can do in a booted machine: one provisioner per file, each an entry point `imageflow.provisioners`.

The entry point's name is the key in a recipe: `- packages: [nginx]` is done by `packages`. An entry runs
again after a crash or a resume, so everything a provisioner does must be fine a second time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import stevedore

from imageflow.errors import ConfigError
from imageflow.guest import Access, Guest
from imageflow.host.control import Control
from imageflow.model import Json

ENTRY_POINTS = "imageflow.provisioners"


@dataclass(frozen=True, slots=True)
class Context:
    """What a provisioner works with."""

    guest: Guest
    access: Access  # how to reach the machine, for tools that make their own connection, such as ansible
    folder: Path  # the recipe's folder: local files are relative to it
    pins: Json  # "file:REL" -> SHA-256 that a local file must still have (check with `pinned`)
    work: Path  # an empty scratch folder on this host, removed afterwards
    control: Control
    log: Callable[[str], None]
    progress: Callable[[float, str], None]
    secret: Callable[[str], str]


class Provisioner(Protocol):
    """One key of `configure`; a class without state."""

    def title(self, value: Any) -> str:
        """Shown to operators, under 60 characters: 'packages nginx, curl'."""

    def sources(self, value: Any) -> Sequence[str]:
        """The local files and folders it uses, relative to the recipe's folder; they are pinned."""

    def check(self, value: Any, folder: Path) -> None:
        """Raise RecipeError, or Refused when this host lacks a tool; runs before the build."""

    def apply(self, value: Any, context: Context) -> None:
        """Apply the entry; `value` is the canonical form of the recipe's value."""


def reboots(kind: str, value: Any) -> bool:
    """Whether an entry of `configure` reboots the machine: `- reboot: {}`, or `reboot: true` in another one."""
    return kind == "reboot" or (isinstance(value, Mapping) and value.get("reboot") is True)


@functools.cache
def find(kind: str) -> Provisioner:
    """The provisioner for a key of `configure`."""
    for point in stevedore.NamedExtensionManager(ENTRY_POINTS, []).list_entry_points():
        if point.name == kind:
            made: Provisioner = point.load()()
            return made
    raise ConfigError(f"there is no provisioner {kind!r}", hint="is the package that provides it installed?")
