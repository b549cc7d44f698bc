"""Images in one cloud's Glance: transferred with hash checks, found by their properties.

Our images have properties that begin with `imageflow:`; hidden and half-made ones are found, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import IO, Any

from imageflow.background.backoff import Backoff
from imageflow.errors import Corrupt, ImageflowError, NotFound, Refused, TimedOut, Unavailable
from imageflow.host.control import Control
from imageflow.openstack import Cloud
from imageflow.openstack.cloud_errors import BrokeOff, Busy, ended_at, patiently, translated
from imageflow.openstack.image import SELF, GlanceImage

LOG = logging.getLogger(__name__)
_GONE = ("deleted", "pending_delete")
_PATCH = "application/openstack-images-v2.1-json-patch"
_LOOK = 0.5  # seconds between two looks at an image that is being made
_TRIES = 5  # downloads of one image; each starts from the beginning
_PAUSE = (0.5, 8.0)  # seconds until it is downloaded again: after the first failure, and at most
_BRIEFLY = 10.0  # seconds of retries for cleaning up after a failure: the janitor does the rest


class Images:
    """Operations of one project on a cloud's images."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def ask(
        self, what: str, work: Callable[[], Any], control: Control | None = None, patience: float | None = None
    ) -> Any:
        """Do repeatable work with the configured patience; `what`: its name in messages. Raises as `patiently` does."""
        named = f"{self.cloud.name}: {what}"
        longest = self.cloud.config.patience
        return patiently(named, work, patience=longest if patience is None else min(patience, longest), control=control)

    # -- finding -------------------------------------------------------------------------------------

    def get(self, id: str) -> GlanceImage | None:
        """The image with this id, None when it does not exist or is not visible to us."""
        try:
            return _image(self.ask(f"image {id}", lambda: self.cloud.glance.images.get(id)))
        except NotFound:
            return None

    def find(
        self,
        properties: Mapping[str, str],
        *,
        tags: Sequence[str] = (),
        snapshots: bool = False,
        hidden: bool | None = None,
    ) -> list[GlanceImage]:
        """Our own images with all of these properties (`name` may be one) and tags, in any state, oldest first.

        `snapshots`: include snapshots that still have properties inherited from their server's image.
        `hidden`: only the hidden ones, or only the others; each is a separate request.
        """
        filters: dict[str, Any] = {**properties, "owner": self.cloud.project, "visibility": "all"}
        if tags:
            filters["tag"] = list(tags)

        def look() -> list[Any]:
            found: list[Any] = []
            for one in (False, True) if hidden is None else (hidden,):
                found += self._list({**filters, "os_hidden": one})
            return found

        # An image hidden between the requests is in both answers.
        images = {str(raw["id"]): _image(raw) for raw in self.ask("our images", look)}.values()
        there = [i for i in images if i.status not in _GONE and (snapshots or not i.inherited)]
        return sorted(there, key=GlanceImage.age)

    def _list(self, filters: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = []
        try:
            with translated(f"{self.cloud.name}: images"):
                found.extend(self.cloud.glance.images.list(filters=dict(filters)))
        except (NotFound, Refused) as error:
            # A proxy answers 404 when Glance is down. 400 after the first page: the page's last image was deleted.
            if found or isinstance(error, NotFound):
                raise Unavailable(error.message) from error
            raise
        return found

    def offered(self, name: str, properties: Mapping[str, str]) -> Iterator[GlanceImage]:
        """Active images of this name that we may boot and that have all of these properties, newest first.

        Our own, public ones, and those shared with us and accepted; not what only an administrator sees, and not
        `community` images, which anyone can offer under any name, unless the properties ask for that visibility. An
        owner given in the properties is trusted.
        """
        filters = {**properties, "name": name, "status": "active"}
        found = self.ask(f"images named {name!r}", lambda: self._list(filters))
        # Within a second Glance's own order is kept: it knows the fraction, but does not return it.
        images = sorted(map(_image, found), key=lambda i: i.says("created_at"), reverse=True)
        return filter(lambda image: "owner" in properties or self._is_for_us(image, properties), images)

    def _is_for_us(self, image: GlanceImage, asked: Mapping[str, str]) -> bool:
        visibility, ours = image.says("visibility"), self.cloud.project
        if visibility == "public" or image.says("owner") == ours:
            return True
        if visibility == "community":
            return asked.get("visibility") == visibility
        if visibility != "shared":
            return False
        if not self.cloud.is_administrator:
            return True  # lists contain only accepted ones
        members = self.cloud.glance.image_members
        try:
            said = self.ask(f"members of image {image.id}", lambda: members.get(image.id, ours))
        except NotFound:
            return False
        return bool(said["status"] == "accepted")

    # -- making --------------------------------------------------------------------------------------

    def create(self, described: Mapping[str, Any], control: Control) -> GlanceImage:
        """Make an image without data; can be repeated after a lost answer, as its id is chosen before."""
        id = str(uuid.uuid4())

        def work() -> GlanceImage:
            try:
                return _image(self.cloud.glance.images.create(**{**described, "id": id, SELF: id}))
            except Exception:
                with contextlib.suppress(Exception):  # the first error is more informative
                    return _image(self.cloud.glance.images.get(id))
                raise

        made: GlanceImage = self.ask("create image", work, control)
        return made

    def check_import(self, method: str) -> None:
        """Raise Refused when the cloud does not offer to import images by this method."""
        try:
            said = self.ask("ways to import images", lambda: self.cloud.glance.images.get_import_info())
            offered = list((said.get("import-methods") or {}).get("value") or [])
        except NotFound:
            offered = []
        if method not in offered:
            raise Refused(
                f"{self.cloud.name} does not offer to import images by {method}, but by: {', '.join(offered) or 'nothing'}",
                hint="set [glance] import_method = upload, or let its administrator enable the method",
            )

    def check_stores(self, names: Sequence[str]) -> None:
        """Raise Refused when Glance has no stores of these names."""
        try:
            said = self.ask("the stores of images", lambda: self.cloud.glance.images.get_stores_info())
            there = [str(store["id"]) for store in said.get("stores") or [] if not store.get("read-only")]
        except NotFound:
            there = []
        for name in names:
            if name not in there:
                raise Refused(
                    f"{self.cloud.name} has no store of images named {name!r}, but: {', '.join(there) or 'one'}",
                    hint="see [glance] stores, and 'glance stores-info'",
                )

    def await_active(self, id: str, control: Control, timeout: float = 3600.0) -> GlanceImage:
        """Wait until an image has its data; raises Unavailable (its upload was aborted), Refused (it is gone), TimedOut."""
        end = time.monotonic() + timeout
        while True:
            image = self.get(id)
            if image is None or image.status in _GONE:
                raise Refused(f"{self.cloud.name}: image {id} is gone, it was not made")
            if image.status == "deactivated":
                raise Refused(f"{self.cloud.name}: an administrator deactivated image {id}", hint="ask why")
            importing = image.says("os_glance_importing_to_stores")
            if image.active and not importing:
                return image
            if failed := image.says("os_glance_failed_import"):
                raise Refused(f"{self.cloud.name}: image {id} could not be imported into {failed}")
            if image.status in ("killed", "queued") and not importing:
                raise Unavailable(f"{self.cloud.name}: image {id} is {image.status}: its data did not arrive")
            if time.monotonic() > end:
                raise TimedOut(f"{self.cloud.name}: image {id} is {image.status} for too long")
            control.wait(_LOOK)

    # -- changing ------------------------------------------------------------------------------------

    def update(self, id: str, change: Mapping[str, Any], *, remove: Sequence[str] = ()) -> GlanceImage:
        """Change an image's properties, and remove those named in `remove`; idempotent."""

        def work() -> GlanceImage:
            there = self.cloud.glance.images.get(id)
            drop = [name for name in remove if name in there]
            patch: list[dict[str, Any]] = [{"op": "remove", "path": _pointer(name)} for name in drop]
            for key, value in change.items():
                if key not in there or there[key] != value:
                    patch.append({"op": "replace" if key in there else "add", "path": _pointer(key), "value": value})
            if not patch:
                return _image(there)
            _, changed = self.cloud.glance.http_client.patch(  # the client's own method fetches the image twice more
                f"/v2/images/{id}", headers={"Content-Type": _PATCH}, data=json.dumps(patch)
            )
            return _image(changed)

        found: GlanceImage = self.ask(f"change image {id}", work)
        return found

    def tag(self, id: str, tag: str) -> None:
        """Add a tag to an image; idempotent. Raises NotFound."""
        self.ask(f"tag image {id}", lambda: self.cloud.glance.image_tags.update(id, tag))

    def untag(self, id: str, tag: str) -> None:
        """Remove a tag, if the image exists and has it."""
        with contextlib.suppress(NotFound):
            self.ask(f"untag image {id}", lambda: self.cloud.glance.image_tags.delete(id, tag))

    def remove(self, id: str, control: Control | None = None, patience: float | None = None) -> None:
        """Delete an image, if it exists. Done when Glance no longer finds it: the answer to a delete may be wrong or lost.

        Raises Busy while it is in use, Refused when it is protected.
        """

        def work() -> None:
            problem: Exception | None = None
            try:
                self.cloud.glance.images.delete(id)
            except Exception as error:  # noqa: BLE001 - whatever the answer: is it gone?
                problem = error
            try:
                left = _image(self.cloud.glance.images.get(id))
            except Exception as error:
                if getattr(error, "code", None) == 404:
                    return
                raise
            if left.status in _GONE:
                return
            if left.data.get("protected"):
                raise Refused(f"image {id} is protected", hint=f"openstack image set --unprotected {id}")
            if problem is not None and getattr(problem, "code", None) != 404:
                raise problem
            raise Busy(f"image {id} is still there")

        self.ask(f"delete image {id}", work, control, patience)

    def try_to_remove(self, id: str) -> None:
        """Delete an image that has no readers; if that fails, it is left to the janitor."""
        try:
            self.remove(id, patience=_BRIEFLY)
        except ImageflowError as error:
            LOG.warning("image %s is left: %s", id, error)

    # -- reading -------------------------------------------------------------------------------------

    def chunks(self, image: GlanceImage, control: Control) -> Generator[bytes, None, None]:
        """Its data in pieces, requested at once. Raises NotFound, Unavailable, and BrokeOff while reading.

        A caller that does not read it to the end must close it.
        """

        def begin() -> tuple[Any, Iterator[bytes]]:
            # If Glance's store lacks some of the data, the server closes the connection instead of waiting for ever.
            answer, body = self.cloud.glance.http_client.get(
                f"/v2/images/{image.id}/file", headers={"Connection": "close"}
            )
            return answer, body if isinstance(body, Generator) and answer.status_code != 204 else iter(())

        answer, body = self.ask(f"download image {image.id}", begin, control)
        pieces = self._pieces(image, answer, body, control)
        next(pieces)  # a generator that never started would not close the connection
        return pieces

    def _pieces(
        self, image: GlanceImage, answer: Any, found: Iterator[bytes], control: Control
    ) -> Generator[bytes, None, None]:
        done, size = 0, int(image.data.get("size") or 0)
        named = f"{self.cloud.name}: image {image.id}"
        try:
            yield b""
            while True:
                control.check()
                try:
                    with translated(named):
                        piece = next(found, b"")
                except Unavailable as error:
                    raise BrokeOff(error.message, at=ended_at(error)) from error
                if not piece:
                    break
                done += len(piece)
                yield piece
        finally:
            answer.close()
        if done < size:
            raise BrokeOff(f"{named}: there are {done} of its {size} bytes", at=done)

    def download(
        self,
        image: GlanceImage,
        to: IO[bytes],
        control: Control,
        *,
        sha256: str | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> str:
        """Write its data to an open file, from the start, and check its hash; -> SHA-256.

        An interrupted download starts over. Raises Corrupt, NotFound, and NoSpace for an OSError.
        """
        backoff = Backoff(*_PAUSE)
        for attempt in range(_TRIES):
            to.seek(0)
            to.truncate()
            try:
                return self._copy(image, to, control, sha256, progress)
            except (Unavailable, Corrupt) as error:
                if attempt >= (_TRIES if isinstance(error, Unavailable) else 2) - 1:
                    raise
                control.wait(backoff.next())
        raise AssertionError

    def _copy(
        self, image: GlanceImage, to: IO[bytes], control: Control, sha256: str | None, progress: Callable[[float], None]
    ) -> str:
        algorithm, _, value = image.hash.partition(":")
        other = hashlib.new(algorithm) if algorithm in hashlib.algorithms_available else None
        digest, done, size = hashlib.sha256(), 0, int(image.data.get("size") or 0)
        with contextlib.closing(self.chunks(image, control)) as pieces:
            for piece in pieces:
                to.write(piece)
                digest.update(piece)
                if other is not None:
                    other.update(piece)
                done += len(piece)
                progress(min(1.0, done / size) if size else 0.0)
        if (other is not None and other.hexdigest() != value) or (sha256 is not None and digest.hexdigest() != sha256):
            raise Corrupt(f"{self.cloud.name}: image {image.id} is not what was stored")
        return digest.hexdigest()


def _pointer(name: str) -> str:
    """A property's path in a JSON patch."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _image(raw: Any) -> GlanceImage:
    data = dict(raw)
    return GlanceImage(str(data["id"]), str(data.get("name") or ""), str(data.get("status") or ""), data)
