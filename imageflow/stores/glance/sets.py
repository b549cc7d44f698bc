"""What the images of a version say in Glance, and the version that a list of images is: pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from imageflow.model import Artifact
from imageflow.openstack.image import BUILD, KEY, PREFIX, RECIPE, WHOLE, Image
from imageflow.openstack.properties import LONGEST_NAME, checked, formats, hardware, is_disk
from imageflow.stores import About, ImageRef

KIND, VERSION = f"{PREFIX}kind", "version"  # what kind of thing of ours an image is, and this one
DIGEST = f"{PREFIX}digest"  # SHA-256 of the primary artifact: the version
IMAGE = f"{PREFIX}image"  # the name that it is published under
POSITION = f"{PREFIX}position"  # of the artifact in the version; 0: the primary one
FILES = f"{PREFIX}files"  # names of all artifacts of the version, with '/' between them
ARTIFACT = f"{PREFIX}artifact"  # its file name
FORMAT, SHA256, SIZE = f"{PREFIX}format", f"{PREFIX}sha256", f"{PREFIX}size"
VIRTUAL_SIZE = f"{PREFIX}virtual_size"
CORRUPT = f"{PREFIX}corrupt"  # a verify failed
_GIB = 1 << 30


def described(about: About, artifacts: Sequence[Artifact], position: int) -> tuple[str, dict[str, Any]]:
    """(name, everything else) that the image of one artifact says; raises RecipeError.

    The primary disk has the name that users boot by. What the recipe says of the image is said by its disks, and wins
    over what follows from the build.
    """
    artifact = artifacts[position]
    name = about.image if position == 0 else f"{about.image}.{artifact.format}"
    said: dict[str, Any] = formats(artifact.format)
    if is_disk(artifact.format):
        said |= hardware(about.architecture, about.firmware)
        if artifact.virtual_size:
            said["min_disk"] = math.ceil(artifact.virtual_size / _GIB)
        wins = checked(about.properties)
        lower = {key.lower() for key in wins}  # names that differ in their case only are one name to Glance
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
    """The images of one version by one build, half made or whole."""

    build_id: str
    digest: str
    images: tuple[Image, ...]  # one for each artifact that is there, with all of its data, in their order
    all: tuple[Image, ...]  # these, and copies and half-made ones

    @property
    def superfluous(self) -> tuple[Image, ...]:
        """What may go when nobody works on it: all of a version that never was whole, or lost its primary image.

        What an administrator deactivated stays: it may come back.
        """
        primary = next((image for image in self.images if image.says(POSITION) == "0"), None)
        found = self.others if primary is not None and primary.says(WHOLE) else self.all
        return () if any(image.status == "deactivated" for image in self.all) else found

    @property
    def others(self) -> tuple[Image, ...]:
        """Those that are not needed."""
        return tuple(image for image in self.all if image not in self.images)

    @property
    def names(self) -> list[str]:
        """Of all files that it has when it is whole."""
        return self.all[0].says(FILES).split("/")

    @property
    def missing(self) -> str | None:
        """A file that it should have, and that is not there."""
        there = [image.says(ARTIFACT) for image in self.images]
        return next((name for name in self.names if name not in there), None)

    @property
    def published(self) -> bool:
        """Whether it was whole once."""
        return any(image.says(WHOLE) for image in self.images)

    @property
    def corrupt(self) -> bool:
        """Whether a verify failed."""
        return any(image.says(CORRUPT) for image in self.images)

    @property
    def whole(self) -> bool:
        """Whether readers may have it."""
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
        """As a store says it; its path is the id of the primary image."""
        return ImageRef(store, self.digest, self.images[0].id, self.artifacts, image=self.images[0].id)


def sets_of(images: Iterable[Image]) -> list[ImageSet]:
    """The versions that these images are of, the oldest first; `images` are in the order of their age."""
    found: dict[tuple[str, str], list[Image]] = {}
    for image in images:
        found.setdefault((image.says(BUILD), image.says(DIGEST)), []).append(image)
    return [_set(build_id, digest, there) for (build_id, digest), there in found.items()]


def _set(build_id: str, digest: str, there: list[Image]) -> ImageSet:
    chosen: dict[int, Image] = {}
    for image in sorted(there, key=lambda i: not i.says(WHOLE)):  # what was published stays; the oldest else
        if _has_data(image) and image.says(POSITION).isdecimal():
            chosen.setdefault(int(image.says(POSITION)), image)
    images = tuple(image for _, image in sorted(chosen.items()))
    rest = tuple(image for image in there if image not in images)
    return ImageSet(build_id, digest, images, images + rest)


def _has_data(image: Image) -> bool:
    """Whether all of its data is there: what an upload that broke off leaves may be active, and short.

    What was published had it all: should it have another size now, that is for a verify to say.
    """
    return image.active and bool(image.says(WHOLE) or image.says(SIZE) == str(image.size))
