"""Checks that Glance still has a version as it was stored, by reading all of it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

from imageflow.background.backoff import Backoff
from imageflow.errors import Corrupt
from imageflow.host.control import Control
from imageflow.openstack.cloud_errors import BrokeOff
from imageflow.openstack.image import GlanceImage
from imageflow.openstack.images import Images
from imageflow.stores.glance.sets import ARTIFACT, ImageSet

_SAME_PLACE = 3  # downloads that end at the same byte: the data is truncated, not the connection broken
_PAUSE = (0.4, 6.4)  # seconds until it is read again: after the first failure, and at most


def compare(images: Images, one: ImageSet, control: Control, report: Callable[[int], None]) -> None:
    """Raise Corrupt, naming the file that differs; `report` gets bytes read, negative when a download starts over."""
    if missing := one.missing:
        raise Corrupt(f"{missing} of {one.digest[:12]} is missing in {images.cloud.name}")
    # All are requested first: a version deleted meanwhile can still be read to its end, if Glance can do that.
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(contextlib.closing(images.chunks(image, control))) for image in one.images]
        for image, stream, artifact in zip(one.images, streams, one.artifacts, strict=True):
            if _digest(images, image, stream, control, report) != artifact.digest:
                raise Corrupt(f"{artifact.name} (image {image.id}) is not what was stored: its SHA-256 differs")


def _digest(
    images: Images, image: GlanceImage, stream: Iterator[bytes], control: Control, report: Callable[[int], None]
) -> str:
    ends: list[int | None] = []
    backoff = Backoff(*_PAUSE)
    while True:
        digest, done = hashlib.sha256(), 0
        try:
            for piece in stream:
                digest.update(piece)
                done += len(piece)
                report(len(piece))
            return digest.hexdigest()
        except BrokeOff as error:
            ends.append(error.at)
            if error.at is not None and ends.count(error.at) == _SAME_PLACE:
                raise Corrupt(
                    f"{image.says(ARTIFACT)} (image {image.id}) has only {error.at} of its {image.size} bytes"
                ) from error
            if len(ends) == 2 * _SAME_PLACE:
                raise
        report(-done)
        control.wait(backoff.next())
        stream = images.chunks(image, control)
