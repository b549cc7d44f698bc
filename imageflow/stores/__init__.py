"""Where images live: the protocol that every store driver fulfils (entry points `imageflow.stores`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from imageflow import drivers
from imageflow.config import Config
from imageflow.control import Control
from imageflow.model import Artifact


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image version in one store."""

    store: str  # name of the driver
    digest: str  # SHA-256 of the primary artifact
    path: str  # where the primary artifact is, as a user would say it
    artifacts: tuple[Artifact, ...]
    image: str | None = None  # id of the primary artifact in the Glance of the cloud that machines run in


@dataclass(frozen=True, slots=True)
class About:
    """What a version is, for stores whose users see more than files."""

    image: str  # the name that it is published under
    key: str = ""  # the build's
    recipe: str = ""  # name of the image in its recipe
    properties: Mapping[str, str] = field(default_factory=dict)  # what the recipe says, and what is known of the system
    visibility: str | None = None  # private, shared, community, public; None: as the store is configured
    architecture: str = ""  # x86_64, …
    firmware: str = ""  # bios, uefi; '' where nobody knows
    boot_loader: bool = True  # False: the disk starts with the version's kernel and initrd only


class Store(Protocol):
    """A place for image versions, addressed by the digest of their primary artifact."""

    name: str
    # Whether others than this imageflow may keep theirs in the same place: then nothing of a build that is unknown
    # here is removed by `tidy`.
    shared: bool
    place: tuple[str, ...]  # what tells it from others: two of one place are one store

    @classmethod
    def at(cls, config: Config, where: str) -> Config:
        """The configuration of the store that [publish] targets calls NAME=DRIVER:WHERE; raises ConfigError, beginning with WHERE."""

    def configured(self) -> None:
        """Raise ConfigError when something is missing that it needs to reach its place; nothing is reached."""

    def ready(self, *, used: bool) -> None:
        """Raise Unavailable when its place is not there, or is not the one that was `used` before, as a mount that is missing."""

    def check_properties(self, properties: Mapping[str, Any]) -> None:
        """Raise RecipeError when a recipe's `publish.properties` could not be stored."""

    def find(self, digest: str, build_id: str | None = None) -> ImageRef | None:
        """The version with this digest, whole, or None; this build's own, where several made it and each has one."""

    def add(
        self,
        files: Sequence[tuple[Path, Artifact]],
        *,
        build_id: str,
        control: Control,
        move: bool = False,
        about: About | None = None,
        progress: Callable[[float], None] = ...,
    ) -> ImageRef:
        """Store a version: its files, the primary one first; again is fine, and finds the first one.

        A reader sees all of it or nothing. A version that several builds made is kept until each of
        them has deleted its share. `move`: the files may be taken into the store; after an error they
        are still where they were. Raises NoSpace, NotFound (a file), Corrupt (not the size it should
        have), Refused.
        """

    def open(self, ref: ImageRef, artifact: str | None = None) -> IO[bytes]:
        """Read an artifact, the primary one by default; raises NotFound."""

    def copy_out(self, ref: ImageRef, artifact: str | None, to: Path, control: Control) -> Path:
        """Copy an artifact (the primary one by default) to a new file, or into a folder; -> the file.

        The file appears whole or not at all. Raises NotFound, Conflict (it exists), NoSpace, Refused.
        """

    def verify(self, digest: str, control: Control, progress: Callable[[float], None] = ...) -> None:
        """Read every artifact and compare; raises Corrupt, naming the file, or NotFound."""

    def delete(self, digest: str, build_id: str | None = None) -> None:
        """Remove a version; absent is fine, and whoever reads it now can read on.

        With `build_id`, only that build's share of it: what other builds made too, or what this build
        never added, stays. A revert and the janitor give it, so that they can't remove a good image.
        """

    def list(self, build_id: str | None = None) -> Sequence[ImageRef]:
        """What is there (made by this build); half-made versions are not."""

    def tidy(self, alive: Callable[[str], bool]) -> Sequence[str]:
        """Remove half-made versions of builds that are not `alive(build_id)`; -> what was removed."""


def driver(name: str, option: str = "") -> type[Store]:
    """The class of the driver of this name; raises ConfigError. `option`: where it was named, [store] driver by default."""
    found: type[Store] = drivers.load("store", "imageflow.stores", name, option)
    return found


def store(config: Config) -> Store:
    """The one that is configured; nothing of it is reached yet. Raises ConfigError."""
    found: Store = drivers.load("store", "imageflow.stores", config.store)(config)
    return found
