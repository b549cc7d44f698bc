"""Where images live: the protocol of store drivers (entry points `imageflow.stores`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from imageflow.config import Config, drivers
from imageflow.host.control import Control
from imageflow.model import Artifact, Build
from imageflow.recipe import ImageRecipe
from imageflow.recipe.definition import has_boot_loader


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image version in one store."""

    store: str  # name of the driver
    digest: str  # SHA-256 of the primary artifact
    path: str  # location of the primary artifact, as shown to users
    artifacts: tuple[Artifact, ...]
    image: str | None = None  # id of the primary artifact in the Glance of the cloud that machines run in


@dataclass(frozen=True, slots=True)
class About:
    """A description of a version, for stores that show their users more than files."""

    image: str  # the name it is published under
    key: str = ""  # the build's
    recipe: str = ""  # name of the image in its recipe
    properties: Mapping[str, str] = field(default_factory=dict)  # from the recipe, and what is known about the system
    visibility: str | None = None  # private, shared, community, public; None: as the store is configured
    architecture: str = ""  # x86_64, …
    firmware: str = ""  # bios, uefi; '' if unknown
    boot_loader: bool = True  # False: the disk starts with the version's kernel and initrd only


def about(build: Build, properties: Mapping[str, str]) -> About:
    """The description of a build's version for its store; `properties`: those from the recipe."""
    image = ImageRecipe.from_json(build.recipe)
    return About(
        image=image.publish.name or build.image,
        key=build.key,
        recipe=build.image,
        properties=properties,
        visibility=image.publish.visibility,
        architecture=str(build.pins.get("architecture") or ""),
        firmware=image.machine.firmware if image.on_machine else "",
        boot_loader=has_boot_loader(image),
    )


class Store(Protocol):
    """A place for image versions, addressed by the digest of their primary artifact."""

    name: str
    # Whether other imageflow installations may use the same place: then `tidy` removes nothing of a build unknown here.
    shared: bool
    place: tuple[str, ...]  # its identity: two stores with the same place are one store

    @classmethod
    def at(cls, config: Config, where: str) -> Config:
        """The configuration of the store that [publish] targets calls NAME=DRIVER:WHERE; raises ConfigError, beginning with WHERE."""

    def configured(self) -> None:
        """Raise ConfigError when required settings are missing; makes no connection."""

    def ready(self, *, used: bool) -> None:
        """Raise Unavailable when its place is missing or not the one `used` before, e.g. an absent mount."""

    def check_properties(self, properties: Mapping[str, Any]) -> None:
        """Raise RecipeError when a recipe's `publish.properties` could not be stored."""

    def find(self, digest: str, build_id: str | None = None) -> ImageRef | None:
        """The complete version with this digest, or None; with `build_id` that build's own, if each build has one."""

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
        """Store a version: its files, the primary one first; idempotent: a repeated call finds the first one.

        A reader sees all of it or nothing. A version made by several builds is kept until each of them has
        deleted its share. `move`: the files may be moved into the store; after an error they are still in
        place. Raises NoSpace, NotFound (a file), Corrupt (a wrong size), Refused.
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
        """Remove a version, if it exists; current readers can read on.

        With `build_id`, only that build's share of it: a version that other builds made too, or that this build
        never added, stays. Reverts and the janitor pass it, so that they can't remove a good image.
        """

    def list(self, build_id: str | None = None) -> Sequence[ImageRef]:
        """The complete versions (made by this build)."""

    def tidy(self, alive: Callable[[str], bool]) -> Sequence[str]:
        """Remove half-made versions of builds that are not `alive(build_id)`; -> the removed ones."""


def driver(name: str, option: str = "") -> type[Store]:
    """The class of the driver of this name; raises ConfigError. `option`: the setting that names it, [store] driver by default."""
    found: type[Store] = drivers.load("store", "imageflow.stores", name, option)
    return found


def store(config: Config) -> Store:
    """The configured store; makes no connection yet. Raises ConfigError."""
    found: Store = drivers.load("store", "imageflow.stores", config.store)(config)
    return found
