"""Finds and removes the images of a version, complete or not."""

from __future__ import annotations

from collections.abc import Sequence

from imageflow.openstack.image import BUILD
from imageflow.openstack.images import Images
from imageflow.stores.glance.sets import DIGEST, KIND, VERSION, ImageSet, sets_of
from imageflow.stores.places import DIGEST as IS_DIGEST

BUSY = 30.0  # seconds that deleting an image in use is retried: the janitor tries again later


def versions(images: Images, digest: str, build_id: str | None = None) -> Sequence[ImageSet]:
    """The sets of a version (made by this build), oldest first: one for each build that made it."""
    if not IS_DIGEST.fullmatch(digest):
        return []
    wanted = {KIND: VERSION, DIGEST: digest} | ({BUILD: build_id} if build_id else {})
    return sets_of(images.find(wanted))


def remove(images: Images, one: ImageSet) -> None:
    """Remove a set, the primary image first: readers lose the version at once. Raises Busy, Refused."""
    for image in one.all:
        images.remove(image.id, patience=BUSY)
