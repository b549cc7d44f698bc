"""Images of one cloud's Glance: streamed in and out with their hashes checked, found by what they say of themselves.

Images of ours carry properties that begin with `imageflow:`; hidden ones and half-made ones are found, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from imageflow.control import Control
from imageflow.errors import Corrupt, NotFound, Refused, TimedOut, Unavailable
from imageflow.openstack import Cloud
from imageflow.openstack.trouble import Busy, patiently

PREFIX = "imageflow:"
BUILD, KEY, RECIPE = f"{PREFIX}build_id", f"{PREFIX}key", f"{PREFIX}recipe"
_HALF = ("queued", "saving", "importing", "uploading", "killed")  # what an upload that goes on, or was ended, leaves
_GONE = ("deleted", "pending_delete")
_CHUNK = 1 << 20
_LOOK = 0.5  # seconds between two looks at an image that is being made
_TRIES = 5  # uploads of one file; each of them starts from its beginning


@dataclass(frozen=True, slots=True)
class Image:
    """An image as Glance describes it."""

    id: str
    name: str
    status: str  # active, queued, saving, …
    data: Mapping[str, Any]  # all of it

    @property
    def active(self) -> bool:
        return self.status == "active"

    @property
    def half(self) -> bool:
        """Whether its data is not there, or not all of it."""
        return self.status in _HALF

    @property
    def hash(self) -> str:
        """'ALGORITHM:HEX' of its data; '' while there is none."""
        algorithm, value = self.data.get("os_hash_algo"), self.data.get("os_hash_value")
        return f"{algorithm}:{value}" if algorithm and value else ""

    def says(self, name: str) -> str:
        """One of its properties, '' without it."""
        return str(self.data.get(name) or "")


class Images:
    """What one project can do with the images of a cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud

    def _ask(self, what: str, work: Callable[[], Any], control: Control | None = None) -> Any:
        named = f"{self.cloud.name}: {what}"
        return patiently(named, work, patience=self.cloud.config.patience, control=control)

    # -- finding -------------------------------------------------------------------------------------

    def get(self, id: str) -> Image | None:
        """The image with this id, None when there is none, or not for us."""
        try:
            return _image(self._ask(f"image {id}", lambda: self.cloud.glance.images.get(id)))
        except NotFound:
            return None

    def find(self, properties: Mapping[str, str], *, tags: Sequence[str] = ()) -> list[Image]:
        """Our own images that have all of these properties (`name` may be one) and tags, whatever their state, oldest first."""
        filters: dict[str, Any] = {**properties, "owner": self.cloud.project, "visibility": "all"}
        if tags:
            filters["tag"] = list(tags)

        def look() -> list[Any]:
            found: list[Any] = []
            for hidden in (False, True):
                found += list(self.cloud.glance.images.list(filters={**filters, "os_hidden": hidden}))
            return found

        images = [_image(raw) for raw in self._ask("our images", look)]
        return sorted((i for i in images if i.status not in _GONE), key=lambda i: (i.says("created_at"), i.id))

    def offered(self, name: str, properties: Mapping[str, str]) -> list[Image]:
        """Active images of this name that we may boot, and that have all of these properties, newest first.

        Everybody's own, those that are public, and those that were shared with us and accepted: not `community`, where
        anybody can offer anything under any name.
        """
        filters = {**properties, "name": name, "status": "active"}
        found = self._ask(f"images named {name!r}", lambda: list(self.cloud.glance.images.list(filters=filters)))
        return sorted(map(_image, found), key=lambda i: (i.says("created_at"), i.id), reverse=True)

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

        What an interrupted upload of it left is removed. `about`: what else it says (visibility, min_disk, other
        properties). `sha256`: what the file must be. Raises Corrupt (the file is another one), Refused, Unavailable.
        """
        assert identity and all(key.startswith(PREFIX) for key in identity)
        error: Exception = AssertionError()
        for attempt in range(_TRIES):
            if (found := self._whole_one(identity, control)) is not None:
                return found
            described = {**(about or {}), **identity, "name": name, "disk_format": disk_format}
            described |= {"container_format": described.get("container_format", "bare")}
            try:
                image = self._create(described, control)
                self._send(image, file, sha256, control, progress, method, stores)
            except (Unavailable, Corrupt) as problem:
                if isinstance(problem, Corrupt) and problem.hint == "":  # the file's own fault
                    raise
                error = problem
                control.wait(min(0.5 * 2**attempt, 8.0))
        raise error

    def _whole_one(self, identity: Mapping[str, str], control: Control) -> Image | None:
        """The oldest active one; half-made ones of it, and any others, are removed."""
        whole = None
        for image in self.find(identity):
            if whole is None and image.active:
                whole = image
            else:
                self.remove(image.id, control)
        return whole

    def _create(self, described: Mapping[str, Any], control: Control) -> Image:
        control.check()

        def create() -> Image:
            return _image(self.cloud.glance.images.create(**described))

        # Only once: whether a create that was not answered was done, the next look at all of them says.
        found: Image = patiently(f"{self.cloud.name}: create image", create, patience=0.0, control=control)
        return found

    def _send(
        self,
        image: Image,
        file: Path,
        sha256: str | None,
        control: Control,
        progress: Callable[[float], None],
        method: str,
        stores: Sequence[str],
    ) -> None:
        glance = self.cloud.glance.images
        with file.open("rb", buffering=0) as raw:
            body = _Hashed(raw, file.stat().st_size, control, progress)

            def send() -> None:
                if method == "upload":
                    glance.upload(image.id, body, backend=",".join(stores[:1]) or None)
                else:
                    glance.stage(image.id, body)
                    glance.image_import(image.id, method, stores=list(stores) or None)

            patiently(f"{self.cloud.name}: upload {file.name}", send, patience=0.0, control=control)
        if sha256 is not None and body.complete and body.sha256.hexdigest() != sha256:
            self.remove(image.id, control)
            raise Corrupt(f"{file} is not what it was: its SHA-256 is {body.sha256.hexdigest()[:12]}…")
        there = self.await_active(image.id, control)
        if not body.complete or (method == "upload" and not self._same(there, file, body, control)):
            self.remove(image.id, control)
            raise Corrupt(f"{self.cloud.name} received something else than {file}", hint="it is sent again")

    def _same(self, there: Image, file: Path, body: _Hashed, control: Control) -> bool:
        if there.data.get("size") != body.size:
            return False
        algorithm, _, value = there.hash.partition(":")
        if algorithm == "sha512":
            return value == body.sha512.hexdigest()
        if algorithm not in hashlib.algorithms_available:
            return True  # its size is right, and more can't be known
        digest = hashlib.new(algorithm)
        with file.open("rb") as reader:
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
                control.check()
        return value == digest.hexdigest()

    def await_active(self, id: str, control: Control, timeout: float = 3600.0) -> Image:
        """Wait until an image has its data; raises Unavailable (its upload was ended), Refused (it is gone), TimedOut."""
        end = time.monotonic() + timeout
        while True:
            image = self.get(id)
            if image is None or image.status in _GONE:
                raise Refused(f"{self.cloud.name}: image {id} is gone, it was not made")
            if image.active:
                return image
            if image.status in ("killed", "queued") and not image.says("os_glance_importing_to_stores"):
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
            if not drop and all(there.get(key) == value for key, value in change.items()):
                return _image(there)
            return _image(self.cloud.glance.images.update(id, remove_props=drop or None, **change))

        found: Image = self._ask(f"change image {id}", work)
        return found

    def tag(self, id: str, tag: str) -> None:
        """Put a tag on an image; again is fine. Raises NotFound."""
        self._ask(f"tag image {id}", lambda: self.cloud.glance.image_tags.update(id, tag))

    def untag(self, id: str, tag: str) -> None:
        """Take a tag off; absent is fine, the image too."""
        with contextlib.suppress(NotFound):
            self._ask(f"untag image {id}", lambda: self.cloud.glance.image_tags.delete(id, tag))

    def remove(self, id: str, control: Control | None = None) -> None:
        """Delete an image; absent is fine. It is gone when Glance says so: an answer to a delete may be wrong, or get lost.

        Raises Busy while something is made of it, Refused when it is protected.
        """

        def work() -> None:
            problem: Exception | None = None
            try:
                self.cloud.glance.images.delete(id)
            except Exception as error:  # noqa: BLE001 - whatever was answered: is it gone?
                problem = error
            left = self.get(id)
            if left is None or left.status in _GONE:
                return
            if left.data.get("protected"):
                raise Refused(f"image {id} is protected", hint=f"openstack image set --unprotected {id}")
            if problem is not None and getattr(problem, "code", None) != 404:
                raise problem
            raise Busy(f"image {id} is still there")

        self._ask(f"delete image {id}", work, control)

    # -- reading -------------------------------------------------------------------------------------

    def chunks(self, image: Image, control: Control) -> Iterator[bytes]:
        """Its data, in pieces, as Glance sends it; raises Unavailable, NotFound, Corrupt."""

        def begin() -> Iterator[bytes]:
            return iter(self.cloud.glance.images.data(image.id, do_checksum=False) or ())

        found = self._ask(f"download image {image.id}", begin, control)
        while True:
            control.check()
            piece = patiently(f"{self.cloud.name}: image {image.id}", lambda: next(found, b""), patience=0.0)
            if not piece:
                return
            yield piece

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
            except (Unavailable, Corrupt):
                if attempt == _TRIES - 1:
                    raise
                control.wait(min(0.5 * 2**attempt, 8.0))
        raise AssertionError

    def _copy(
        self, image: Image, to: IO[bytes], control: Control, sha256: str | None, progress: Callable[[float], None]
    ) -> str:
        algorithm, _, value = image.hash.partition(":")
        other = hashlib.new(algorithm) if algorithm in hashlib.algorithms_available else None
        digest, done, size = hashlib.sha256(), 0, int(image.data.get("size") or 0)
        for piece in self.chunks(image, control):
            to.write(piece)
            digest.update(piece)
            if other is not None:
                other.update(piece)
            done += len(piece)
            progress(min(1.0, done / size) if size else 0.0)
        if done < size:
            raise Unavailable(f"{self.cloud.name}: the download of image {image.id} broke off after {done} bytes")
        if (other is not None and other.hexdigest() != value) or (sha256 is not None and digest.hexdigest() != sha256):
            raise Corrupt(f"{self.cloud.name}: image {image.id} is not what was stored")
        return digest.hexdigest()


class _Hashed:
    """A file that is hashed while it is sent; it counts what was read."""

    def __init__(self, raw: IO[bytes], size: int, control: Control, progress: Callable[[float], None]) -> None:
        self._raw, self._control, self._progress = raw, control, progress
        self.size, self._sent = size, 0
        self.sha256, self.sha512 = hashlib.sha256(), hashlib.sha512()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, never few: glanceclient asks for 64 KiB and each piece costs a call."""
        self._control.check()
        data = self._raw.read(max(size, _CHUNK) if size >= 0 else -1)
        self.sha256.update(data)
        self.sha512.update(data)
        self._sent += len(data)
        self._progress(self._sent / self.size if self.size else 1.0)
        return data

    @property
    def complete(self) -> bool:
        """Whether all of it was read, once."""
        return self._sent == self.size


def _image(raw: Any) -> Image:
    data = dict(raw)
    return Image(str(data["id"]), str(data.get("name") or ""), str(data.get("status") or ""), data)
