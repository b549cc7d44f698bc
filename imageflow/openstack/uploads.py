"""Uploads a file to Glance: find or make, safe for any number of workers at once, with retries."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imageflow.background.backoff import Backoff
from imageflow.errors import NotFound, Refused, TimedOut, Unavailable
from imageflow.host.control import Control
from imageflow.openstack.cloud_errors import patiently
from imageflow.openstack.image import PREFIX, WHOLE, GlanceImage
from imageflow.openstack.images import Images
from imageflow.openstack.sent_file import Sent

LOG = logging.getLogger(__name__)
_TRIES = 5  # at least, and for as long as the cloud is waited for; each starts from the beginning of the file
_PAUSE = (1.0, 8.0)  # seconds until it is sent again: after the first failure, and at most
_SETTLED = 60.0  # seconds until Glance has decided on an upload whose answer was lost


def upload(
    images: Images,
    file: Path,
    *,
    name: str,
    disk_format: str,
    identity: Mapping[str, str],
    about: Mapping[str, Any] | None = None,
    sha256: str | None = None,
    control: Control,
    progress: Callable[[float], None] = lambda _: None,
    method: str = "upload",
    stores: Sequence[str] = (),
) -> GlanceImage:
    """Find the image with all properties of `identity`, or make it from this file; active, with its hash checked.

    Any number of workers may do it at once: each sends its own, and all get the first complete one. Half-made ones,
    also from interrupted uploads, are removed then. `about`: other attributes (visibility, min_disk, properties).
    `sha256`: the file's expected hash. Raises Corrupt (the file differs), Refused, OverQuota, Unavailable.
    """
    assert identity and all(key.startswith(PREFIX) for key in identity)
    described = {**(about or {}), **identity, "name": name, "disk_format": disk_format}
    described |= {"container_format": described.get("container_format", "bare")}
    return _Upload(images, identity, described, Sent(file, sha256, control, progress), method, stores).run()


class _Upload:
    """The upload of one file."""

    def __init__(
        self,
        images: Images,
        identity: Mapping[str, str],
        described: Mapping[str, Any],
        sent: Sent,
        method: str,
        stores: Sequence[str],
    ) -> None:
        self._images, self._cloud = images, images.cloud
        self._identity, self._described, self._sent = identity, described, sent
        self._method, self._stores = method, stores

    def run(self) -> GlanceImage:
        """Upload; -> the active image with the file's content."""
        end = time.monotonic() + self._cloud.config.patience
        backoff = Backoff(*_PAUSE)
        for attempt in itertools.count(1):
            if (found := self._chosen()) is not None:
                return found
            try:
                made = self._make()
            except (
                Unavailable,
                NotFound,
            ) as error:  # NotFound: another worker's image is complete, and it removed ours
                if attempt >= _TRIES and time.monotonic() > end:
                    if (found := self._chosen()) is not None:
                        return found
                    raise
                LOG.warning("%s: sending %s again", error.message, self._sent.file.name)
                self._sent.control.wait(backoff.next())
                continue
            first = self._chosen()
            if first is not None and first.id != made.id:
                self._images.try_to_remove(made.id)
            return first or made
        raise AssertionError

    def _chosen(self) -> GlanceImage | None:
        """The published image, or the oldest active one with the file's content; half-made ones are removed then.

        An interrupted upload may be active but truncated: the hash tells.
        """
        found = self._images.find(self._identity, hidden=bool(self._described.get("os_hidden")))
        for image in sorted(found, key=lambda i: not i.says(WHOLE)):  # stable: the order by age is kept otherwise
            if image.active and self._sent.is_in(image):
                for other in found:
                    if other.half:
                        self._images.try_to_remove(other.id)
                return image
        return None

    def _make(self) -> GlanceImage:
        """Create an image and send its data once; a wrong result is removed."""
        made = self._images.create(self._described, self._sent.control)
        try:
            there = self._filled(made)
            if self._sent.is_in(there):
                return there
            if there.data.get("disk_format") != self._described["disk_format"]:
                raise Refused(
                    f"{self._cloud.name}: Glance made {there.data.get('disk_format')} of {self._sent.file.name}",
                    hint="build it in that format, or use [glance] import_method = upload",
                )
            raise Unavailable(f"{self._cloud.name}: image {made.id} is not what was sent of {self._sent.file}")
        except Exception as problem:  # not when the process ends: the next worker finds it
            self._images.try_to_remove(made.id)
            if isinstance(problem, Refused) and self._images.get(made.id) is None and self._chosen() is not None:
                raise NotFound(f"{self._cloud.name}: image {made.id} was taken away") from problem
            raise

    def _filled(self, made: GlanceImage) -> GlanceImage:
        try:
            self._send(made)
        except Unavailable as problem:
            if self._method != "upload" or not self._sent.all_read:
                raise
            self._sent.finish()
            try:  # perhaps only the answer was lost
                return self._images.await_active(made.id, self._sent.control, timeout=_SETTLED)
            except TimedOut:
                raise problem from None
        self._sent.finish()
        if self._method != "upload":
            self._import(made)
        return self._images.await_active(made.id, self._sent.control)

    def _send(self, image: GlanceImage) -> None:
        # A fresh token: should it expire meanwhile, the sent data could not be sent again.
        self._images.ask("a token", self._cloud.session.get_token, self._sent.control)
        glance = self._cloud.glance.images
        with self._sent.opened() as body:

            def send() -> None:
                if self._method == "upload":
                    store = ",".join(self._stores[:1]) or None
                    glance.upload(image.id, body, image_size=self._sent.size, backend=store)
                else:
                    glance.stage(image.id, body, image_size=self._sent.size)

            named = f"{self._cloud.name}: upload {self._sent.file.name}"
            patiently(named, send, patience=0.0, control=self._sent.control)

    def _import(self, image: GlanceImage) -> None:
        staged = self._images.get(image.id)
        if staged is None or staged.data.get("size") not in (None, self._sent.size):
            raise Unavailable(f"{self._cloud.name}: what was staged for image {image.id} is not {self._sent.file}")

        def begin() -> None:
            self._cloud.glance.images.image_import(
                image.id, self._method, stores=list(self._stores) or None, allow_failure=False
            )

        patiently(f"{self._cloud.name}: import image {image.id}", begin, patience=0.0, control=self._sent.control)
