"""An upload of a file into Glance: find-or-make, by any number of workers at once, again where the connection broke."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imageflow.errors import NotFound, Refused, TimedOut, Unavailable
from imageflow.openstack.image import WHOLE, Image
from imageflow.openstack.sending import Sent
from imageflow.openstack.trouble import patiently

if TYPE_CHECKING:
    from imageflow.openstack.images import Images

LOG = logging.getLogger(__name__)
_TRIES = 5  # at least, and as long as the cloud is waited for; each of them starts from the file's beginning
_SETTLED = 60.0  # seconds until Glance has made up its mind about an upload of which the answer got lost


class Upload:
    """One file on its way; see `Images.upload`."""

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

    def run(self) -> Image:
        """The image, active, with the file's bytes."""
        end = time.monotonic() + self._cloud.config.patience
        for attempt in itertools.count(1):
            if (found := self._chosen()) is not None:
                return found
            try:
                made = self._make()
            except (Unavailable, NotFound) as error:  # NotFound: another worker's is there, and it took ours away
                if attempt >= _TRIES and time.monotonic() > end:
                    if (found := self._chosen()) is not None:
                        return found
                    raise
                LOG.warning("%s: sending %s again", error.message, self._sent.file.name)
                self._sent.control.wait(min(0.5 * 2 ** min(attempt, 4), 8.0))
                continue
            first = self._chosen()
            if first is not None and first.id != made.id:
                self._images.try_to_remove(made.id)
            return first or made
        raise AssertionError

    def _chosen(self) -> Image | None:
        """The published one, or the oldest that is active and has the file's bytes; half-made ones are removed then.

        An upload that was interrupted may be active, and short: the hash tells.
        """
        found = self._images.find(self._identity, hidden=bool(self._described.get("os_hidden")))
        for image in sorted(found, key=lambda i: not i.says(WHOLE)):  # it keeps the order otherwise
            if image.active and self._sent.is_in(image):
                for other in found:
                    if other.half:
                        self._images.try_to_remove(other.id)
                return image
        return None

    def _make(self) -> Image:
        """Create an image and send its data, once; what came of it is removed when it is not right."""
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
        except Exception as problem:  # not where the process ends: whoever goes on finds it
            self._images.try_to_remove(made.id)
            if isinstance(problem, Refused) and self._images.get(made.id) is None and self._chosen() is not None:
                raise NotFound(f"{self._cloud.name}: image {made.id} was taken away") from problem
            raise

    def _filled(self, made: Image) -> Image:
        try:
            self._send(made)
        except Unavailable as problem:
            if self._method != "upload" or not self._sent.all_read:
                raise
            self._sent.finish()
            try:  # it may be that only the answer got lost
                return self._images.await_active(made.id, self._sent.control, timeout=_SETTLED)
            except TimedOut:
                raise problem from None
        self._sent.finish()
        if self._method != "upload":
            self._import(made)
        return self._images.await_active(made.id, self._sent.control)

    def _send(self, image: Image) -> None:
        # A fresh token: what was sent can't be sent again when it has expired meanwhile.
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

    def _import(self, image: Image) -> None:
        staged = self._images.get(image.id)
        if staged is None or staged.data.get("size") not in (None, self._sent.size):
            raise Unavailable(f"{self._cloud.name}: what was staged for image {image.id} is not {self._sent.file}")

        def begin() -> None:
            self._cloud.glance.images.image_import(
                image.id, self._method, stores=list(self._stores) or None, allow_failure=False
            )

        patiently(f"{self._cloud.name}: import image {image.id}", begin, patience=0.0, control=self._sent.control)
