"""The images of a version: found, whole or not, and removed."""

from __future__ import annotations

from collections.abc import Sequence

from imageflow.openstack.image import BUILD
from imageflow.openstack.images import Images
from imageflow.stores.glance.sets import DIGEST, KIND, VERSION, ImageSet, sets_of
from imageflow.stores.places import DIGEST as IS_DIGEST

BUSY = 30.0  # seconds that an image which is used is asked to go: the janitor comes again


def versions(images: Images, digest: str, build_id: str | None = None) -> Sequence[ImageSet]:
    """What there is of a version (made by this build), the oldest first: a set for each build that made it."""
    if not IS_DIGEST.fullmatch(digest):
        return []
    wanted = {KIND: VERSION, DIGEST: digest} | ({BUILD: build_id} if build_id else {})
    return sets_of(images.find(wanted))


def remove(images: Images, one: ImageSet) -> None:
    """The primary image first: a version is gone for readers when its removal begins. Raises Busy, Refused."""
    for image in one.all:
        images.remove(image.id, patience=BUSY)
