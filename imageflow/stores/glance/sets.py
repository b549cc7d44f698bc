"""Maps versions to the properties of images in Glance, and lists of images to versions: pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from imageflow.model import Artifact
from imageflow.openstack.image import BUILD, KEY, PREFIX, RECIPE, WHOLE, GlanceImage
from imageflow.openstack.properties import LONGEST_NAME, checked, formats, hardware, is_disk
from imageflow.stores import About, ImageRef

KIND, VERSION = f"{PREFIX}kind", "version"  # the kind of an imageflow image, and the kind used here
DIGEST = f"{PREFIX}digest"  # SHA-256 of the primary artifact: the version
IMAGE = f"{PREFIX}image"  # the name it is published under
POSITION = f"{PREFIX}position"  # of the artifact in the version; 0: the primary one
FILES = f"{PREFIX}files"  # names of all artifacts of the version, separated by '/'
ARTIFACT = f"{PREFIX}artifact"  # the artifact's file name
FORMAT, SHA256, SIZE = f"{PREFIX}format", f"{PREFIX}sha256", f"{PREFIX}size"
VIRTUAL_SIZE = f"{PREFIX}virtual_size"
CORRUPT = f"{PREFIX}corrupt"  # a verify failed
_GIB = 1 << 30


def described(about: About, artifacts: Sequence[Artifact], position: int) -> tuple[str, dict[str, Any]]:
    """(name, other attributes) of the image for one artifact; raises RecipeError.

    The primary disk has the name by which users boot. The recipe's properties are set on the disks, and take precedence
    over those derived from the build.
    """
    artifact = artifacts[position]
    name = about.image if position == 0 else f"{about.image}.{artifact.format}"
    said: dict[str, Any] = formats(artifact.format)
    if is_disk(artifact.format):
        said |= hardware(about.architecture, about.firmware)
        if artifact.virtual_size:
            said["min_disk"] = math.ceil(artifact.virtual_size / _GIB)
        wins = checked(about.properties)
        lower = {key.lower() for key in wins}  # Glance's property names are case-insensitive
        said = {key: value for key, value in said.items() if key.lower() not in lower} | wins
    ours = {
        IMAGE: about.image,
        KEY: about.key,
        RECIPE: about.recipe,
        POSITION: str(position),
        FILES: "/".join(one.name for one in artifacts),
        FORMAT: artifact.format,
        SHA256: artifact.digest,
        SIZE: str(artifact.size),
    }
    if artifact.virtual_size is not None:
        ours[VIRTUAL_SIZE] = str(artifact.virtual_size)
    return name[:LONGEST_NAME], said | {key: value for key, value in ours.items() if value}


@dataclass(frozen=True, slots=True)
class ImageSet:
    """The images of one version by one build, half-made or complete."""

    build_id: str
    digest: str
    images: tuple[GlanceImage, ...]  # one for each artifact with complete data, in the order of the artifacts
    all: tuple[GlanceImage, ...]  # these, and duplicates and half-made ones

    @property
    def superfluous(self) -> tuple[GlanceImage, ...]:
        """Images that may be removed when no build works on them: all of a version never completed, or without its primary.

        Images deactivated by an administrator stay: they may come back.
        """
        primary = next((image for image in self.images if image.says(POSITION) == "0"), None)
        found = self.others if primary is not None and primary.says(WHOLE) else self.all
        return () if any(image.status == "deactivated" for image in self.all) else found

    @property
    def others(self) -> tuple[GlanceImage, ...]:
        """The images that are not needed."""
        return tuple(image for image in self.all if image not in self.images)

    @property
    def names(self) -> list[str]:
        """Names of all files of the complete version."""
        return self.all[0].says(FILES).split("/")

    @property
    def missing(self) -> str | None:
        """A file of the version that is missing, or None."""
        there = [image.says(ARTIFACT) for image in self.images]
        return next((name for name in self.names if name not in there), None)

    @property
    def published(self) -> bool:
        """Whether it was ever complete."""
        return any(image.says(WHOLE) for image in self.images)

    @property
    def corrupt(self) -> bool:
        """Whether a verify failed."""
        return any(image.says(CORRUPT) for image in self.images)

    @property
    def whole(self) -> bool:
        """Whether readers may use it."""
        return bool(
            self.images
            and self.images[0].says(POSITION) == "0"
            and self.images[0].says(WHOLE) == str(len(self.images))
            and not self.missing
            and not self.corrupt
        )

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The files of `images`, as they were stored."""
        return tuple(
            Artifact(
                name=image.says(ARTIFACT),
                format=image.says(FORMAT),
                size=int(image.says(SIZE) or 0),
                digest=image.says(SHA256),
                virtual_size=int(image.says(VIRTUAL_SIZE)) if image.says(VIRTUAL_SIZE) else None,
            )
            for image in self.images
        )

    def ref(self, store: str) -> ImageRef:
        """Its reference; the path is the id of the primary image."""
        return ImageRef(store, self.digest, self.images[0].id, self.artifacts, image=self.images[0].id)


def sets_of(images: Iterable[GlanceImage]) -> list[ImageSet]:
    """The versions of these images, oldest first; `images` are sorted by age."""
    found: dict[tuple[str, str], list[GlanceImage]] = {}
    for image in images:
        found.setdefault((image.says(BUILD), image.says(DIGEST)), []).append(image)
    return [_set(build_id, digest, there) for (build_id, digest), there in found.items()]


def _set(build_id: str, digest: str, there: list[GlanceImage]) -> ImageSet:
    chosen: dict[int, GlanceImage] = {}
    for image in sorted(there, key=lambda i: not i.says(WHOLE)):  # the published one is kept, otherwise the oldest
        if _has_data(image) and image.says(POSITION).isdecimal():
            chosen.setdefault(int(image.says(POSITION)), image)
    images = tuple(image for _, image in sorted(chosen.items()))
    rest = tuple(image for image in there if image not in images)
    return ImageSet(build_id, digest, images, images + rest)


def _has_data(image: GlanceImage) -> bool:
    """Whether all of its data is there: an interrupted upload may leave an active but truncated image.

    A published one was complete: should its size differ now, a verify reports it.
    """
    return image.active and bool(image.says(WHOLE) or image.says(SIZE) == str(image.size))
