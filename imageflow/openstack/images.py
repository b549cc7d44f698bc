"""Images of one cloud's Glance: streamed in and out with their hashes checked, found by what they say of themselves.

Images of ours carry properties that begin with `imageflow:`; hidden ones and half-made ones are found, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from imageflow.control import Control
from imageflow.errors import Corrupt, ImageflowError, NotFound, Refused, TimedOut, Unavailable
from imageflow.openstack import Cloud
from imageflow.openstack.image import PREFIX, SELF, Image
from imageflow.openstack.sending import Sent
from imageflow.openstack.trouble import BrokeOff, Busy, ended_at, patiently, translated
from imageflow.openstack.uploads import Upload

LOG = logging.getLogger(__name__)
_GONE = ("deleted", "pending_delete")
_PATCH = "application/openstack-images-v2.1-json-patch"
_LOOK = 0.5  # seconds between two looks at an image that is being made
_TRIES = 5  # downloads of one image; each of them starts from its beginning
_BRIEFLY = 10.0  # seconds that tidying up after a failure may ask again: the janitor does what is left


class Images:
    """What one project can do with the images of a cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def ask(
        self, what: str, work: Callable[[], Any], control: Control | None = None, patience: float | None = None
    ) -> Any:
        """Do what may be done twice, as patiently as configured; `what` it is, for people. Raises as `patiently` does."""
        named = f"{self.cloud.name}: {what}"
        longest = self.cloud.config.patience
        return patiently(named, work, patience=longest if patience is None else min(patience, longest), control=control)

    # -- finding -------------------------------------------------------------------------------------

    def get(self, id: str) -> Image | None:
        """The image with this id, None when there is none, or not for us."""
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
    ) -> list[Image]:
        """Our own images that have all of these properties (`name` may be one) and tags, whatever their state, oldest first.

        `snapshots`: also those that say of themselves what their server's image was, until somebody has cleaned them.
        `hidden`: only those, or only the others; either is a request of its own.
        """
        filters: dict[str, Any] = {**properties, "owner": self.cloud.project, "visibility": "all"}
        if tags:
            filters["tag"] = list(tags)

        def look() -> list[Any]:
            found: list[Any] = []
            for one in (False, True) if hidden is None else (hidden,):
                found += self._list({**filters, "os_hidden": one})
            return found

        # One that is hidden meanwhile is in both answers.
        images = {str(raw["id"]): _image(raw) for raw in self.ask("our images", look)}.values()
        there = [i for i in images if i.status not in _GONE and (snapshots or not i.inherited)]
        return sorted(there, key=Image.age)

    def _list(self, filters: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = []
        try:
            with translated(f"{self.cloud.name}: images"):
                found.extend(self.cloud.glance.images.list(filters=dict(filters)))
        except (NotFound, Refused) as error:
            # A proxy says 404 when Glance is away. 400 after the first page: the image that it ended with is deleted.
            if found or isinstance(error, NotFound):
                raise Unavailable(error.message) from error
            raise
        return found

    def offered(self, name: str, properties: Mapping[str, str]) -> Iterator[Image]:
        """Active images of this name that we may boot, and that have all of these properties, newest first.

        Our own, those that are public, and those that were shared with us and accepted: not what only an administrator
        sees, and not `community`, where anybody can offer anything under any name, unless the properties ask for that
        visibility. Where they say whose the images are, that is believed.
        """
        filters = {**properties, "name": name, "status": "active"}
        found = self.ask(f"images named {name!r}", lambda: self._list(filters))
        # Of one second Glance's own order is kept: it knows the fraction, and does not tell it.
        images = sorted(map(_image, found), key=lambda i: i.says("created_at"), reverse=True)
        return filter(lambda image: "owner" in properties or self._is_for_us(image, properties), images)

    def _is_for_us(self, image: Image, asked: Mapping[str, str]) -> bool:
        visibility, ours = image.says("visibility"), self.cloud.project
        if visibility == "public" or image.says("owner") == ours:
            return True
        if visibility == "community":
            return asked.get("visibility") == visibility
        if visibility != "shared":
            return False
        if not self.cloud.is_administrator:
            return True  # lists have only those that we accepted
        members = self.cloud.glance.image_members
        try:
            said = self.ask(f"members of image {image.id}", lambda: members.get(image.id, ours))
        except NotFound:
            return False
        return bool(said["status"] == "accepted")

    # -- making --------------------------------------------------------------------------------------

    def upload(
        self,
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
    ) -> Image:
        """Find the image that has all the properties of `identity`, or make it of this file; active, with its hash checked.

        Any number of workers may do it at once: each sends its own, and all get the first one that is there. The half-made
        ones, also what interrupted uploads left, are removed then. `about`: what else it says (visibility, min_disk, other
        properties). `sha256`: what the file must be. Raises Corrupt (the file is another one), Refused, OverQuota,
        Unavailable.
        """
        assert identity and all(key.startswith(PREFIX) for key in identity)
        described = {**(about or {}), **identity, "name": name, "disk_format": disk_format}
        described |= {"container_format": described.get("container_format", "bare")}
        return Upload(self, identity, described, Sent(file, sha256, control, progress), method, stores).run()

    def create(self, described: Mapping[str, Any], control: Control) -> Image:
        """Make an image without data; again is fine where an answer got lost, since its id is known before."""
        id = str(uuid.uuid4())

        def work() -> Image:
            try:
                return _image(self.cloud.glance.images.create(**{**described, "id": id, SELF: id}))
            except Exception:
                with contextlib.suppress(Exception):  # the first error says more
                    return _image(self.cloud.glance.images.get(id))
                raise

        made: Image = self.ask("create image", work, control)
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

    def await_active(self, id: str, control: Control, timeout: float = 3600.0) -> Image:
        """Wait until an image has its data; raises Unavailable (its upload was ended), Refused (it is gone), TimedOut."""
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

    def update(self, id: str, change: Mapping[str, Any], *, remove: Sequence[str] = ()) -> Image:
        """Change what an image says of itself, and remove properties of these names; again is fine."""

        def work() -> Image:
            there = self.cloud.glance.images.get(id)
            drop = [name for name in remove if name in there]
            patch: list[dict[str, Any]] = [{"op": "remove", "path": _pointer(name)} for name in drop]
            for key, value in change.items():
                if key not in there or there[key] != value:
                    patch.append({"op": "replace" if key in there else "add", "path": _pointer(key), "value": value})
            if not patch:
                return _image(there)
            _, changed = self.cloud.glance.http_client.patch(  # its own method asks for the image twice more
                f"/v2/images/{id}", headers={"Content-Type": _PATCH}, data=json.dumps(patch)
            )
            return _image(changed)

        found: Image = self.ask(f"change image {id}", work)
        return found

    def tag(self, id: str, tag: str) -> None:
        """Put a tag on an image; again is fine. Raises NotFound."""
        self.ask(f"tag image {id}", lambda: self.cloud.glance.image_tags.update(id, tag))

    def untag(self, id: str, tag: str) -> None:
        """Take a tag off; absent is fine, the image too."""
        with contextlib.suppress(NotFound):
            self.ask(f"untag image {id}", lambda: self.cloud.glance.image_tags.delete(id, tag))

    def remove(self, id: str, control: Control | None = None, patience: float | None = None) -> None:
        """Delete an image; absent is fine. It is gone when Glance says so: an answer to a delete may be wrong, or get lost.

        Raises Busy while something is made of it, Refused when it is protected.
        """

        def work() -> None:
            problem: Exception | None = None
            try:
                self.cloud.glance.images.delete(id)
            except Exception as error:  # noqa: BLE001 - whatever was answered: is it gone?
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
        """Of what nobody reads: what can't be removed now is left for whoever tidies up."""
        try:
            self.remove(id, patience=_BRIEFLY)
        except ImageflowError as error:
            LOG.warning("image %s is left: %s", id, error)

    # -- reading -------------------------------------------------------------------------------------

    def chunks(self, image: Image, control: Control) -> Generator[bytes, None, None]:
        """Its data, in pieces, as Glance sends it; asked for at once. Raises NotFound, Unavailable, and BrokeOff later.

        Whoever does not read it to its end closes it.
        """

        def begin() -> tuple[Any, Iterator[bytes]]:
            # Whatever of its data is missing in Glance's store, the server closes, and nobody waits for the rest.
            answer, body = self.cloud.glance.http_client.get(
                f"/v2/images/{image.id}/file", headers={"Connection": "close"}
            )
            return answer, body if isinstance(body, Generator) and answer.status_code != 204 else iter(())

        answer, body = self.ask(f"download image {image.id}", begin, control)
        pieces = self._pieces(image, answer, body, control)
        next(pieces)  # what never began would not close the connection
        return pieces

    def _pieces(
        self, image: Image, answer: Any, found: Iterator[bytes], control: Control
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
        image: Image,
        to: IO[bytes],
        control: Control,
        *,
        sha256: str | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> str:
        """Write its data to a file that is open, from its beginning, and check its hash; -> SHA-256.

        A download that breaks off starts again. Raises Corrupt, NotFound, NoSpace by OSError.
        """
        for attempt in range(_TRIES):
            to.seek(0)
            to.truncate()
            try:
                return self._copy(image, to, control, sha256, progress)
            except (Unavailable, Corrupt) as error:
                if attempt >= (_TRIES if isinstance(error, Unavailable) else 2) - 1:
                    raise
                control.wait(min(0.5 * 2**attempt, 8.0))
        raise AssertionError

    def _copy(
        self, image: Image, to: IO[bytes], control: Control, sha256: str | None, progress: Callable[[float], None]
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
    """A property's name in a JSON patch."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _image(raw: Any) -> Image:
    data = dict(raw)
    return Image(str(data["id"]), str(data.get("name") or ""), str(data.get("status") or ""), data)
