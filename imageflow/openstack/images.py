"""Images of one cloud's Glance: streamed in and out with their hashes checked, found by what they say of themselves.

Images of ours carry properties that begin with `imageflow:`; hidden ones and half-made ones are found, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from imageflow.control import Control
from imageflow.errors import Corrupt, ImageflowError, NotFound, Refused, TimedOut, Unavailable
from imageflow.openstack import Cloud
from imageflow.openstack.properties import OURS
from imageflow.openstack.trouble import BrokeOff, Busy, patiently

LOG = logging.getLogger(__name__)
PREFIX = OURS
BUILD, KEY, RECIPE = f"{PREFIX}build_id", f"{PREFIX}key", f"{PREFIX}recipe"
WHOLE = f"{PREFIX}whole"  # of a published image: nobody takes it away for a copy of the same
_HALF = ("queued", "saving", "importing", "uploading", "killed")  # what an upload that goes on, or was ended, leaves
_GONE = ("deleted", "pending_delete")
_CHUNK = 1 << 20
_LOOK = 0.5  # seconds between two looks at an image that is being made
_TRIES = 5  # uploads of one file; each of them starts from its beginning
_BRIEFLY = 10.0  # seconds that tidying up after a failure may ask again: the janitor does what is left


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

    def _ask(
        self, what: str, work: Callable[[], Any], control: Control | None = None, patience: float | None = None
    ) -> Any:
        named = f"{self.cloud.name}: {what}"
        longest = self.cloud.config.patience
        return patiently(named, work, patience=longest if patience is None else min(patience, longest), control=control)

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

        Any number of workers may do it at once: each sends its own, and the first one that is there stays. What it
        leaves, and what was left by interrupted uploads, is removed then. `about`: what else it says (visibility,
        min_disk, other properties). `sha256`: what the file must be. Raises Corrupt (the file is another one), Refused,
        OverQuota, Unavailable.
        """
        assert identity and all(key.startswith(PREFIX) for key in identity)
        described = {**(about or {}), **identity, "name": name, "disk_format": disk_format}
        described |= {"container_format": described.get("container_format", "bare")}
        sent = _Sent(file, sha256, control, progress)
        error: Exception = AssertionError()
        for attempt in range(_TRIES):
            if (found := self._chosen(identity, sent)) is not None:
                return found
            try:
                self._make(described, sent, method, stores)
            except (Unavailable, NotFound) as problem:  # NotFound: another worker's is there, and it took ours away
                error = problem
                control.wait(min(0.5 * 2**attempt, 8.0))
        if (found := self._chosen(identity, sent)) is not None:
            return found
        raise error

    def _chosen(self, identity: Mapping[str, str], sent: _Sent) -> Image | None:
        """The published one, or the oldest that is active and has the file's bytes; all others are removed then.

        An upload that was interrupted may be active, and short: the hash tells.
        """
        found = self.find(identity)
        for image in sorted(found, key=lambda i: not i.says(WHOLE)):  # it keeps the order otherwise
            if image.active and sent.is_in(image):
                for other in found:
                    if other.id != image.id:
                        self._try_to_remove(other.id)
                return image
        return None

    def _make(self, described: Mapping[str, Any], sent: _Sent, method: str, stores: Sequence[str]) -> None:
        """Create an image and send its data, once; what came of it is removed when it is not right."""
        sent.control.check()
        # Not again: whether a create that was not answered was done, the next look at all of them says.
        made = patiently(
            f"{self.cloud.name}: create image",
            lambda: _image(self.cloud.glance.images.create(**described)),
            patience=0.0,
            control=sent.control,
        )
        try:
            self._send(made, sent, method, stores)
            there = self.await_active(made.id, sent.control)
            if not sent.is_in(there):
                if there.data.get("disk_format") != described["disk_format"]:
                    raise Refused(
                        f"{self.cloud.name}: Glance made {there.data.get('disk_format')} of {sent.file.name}",
                        hint="build it in that format, or use [glance] import_method = upload",
                    )
                raise Unavailable(f"{self.cloud.name}: image {made.id} is not what was sent of {sent.file}")
        except BaseException as problem:
            if not isinstance(problem, Exception):
                raise  # the process ends: whoever goes on finds it
            self._try_to_remove(made.id)
            raise

    def _send(self, image: Image, sent: _Sent, method: str, stores: Sequence[str]) -> None:
        glance = self.cloud.glance.images
        self._ask("a token", self.cloud.session.get_token, sent.control)  # a fresh one: the body can't be sent twice
        with sent.opened() as body:

            def send() -> None:
                if method == "upload":
                    glance.upload(image.id, body, image_size=sent.size, backend=",".join(stores[:1]) or None)
                else:
                    glance.stage(image.id, body, image_size=sent.size)

            patiently(f"{self.cloud.name}: upload {sent.file.name}", send, patience=0.0, control=sent.control)
        sent.finish()
        if method != "upload":
            self._import(image, sent, method, stores)

    def _import(self, image: Image, sent: _Sent, method: str, stores: Sequence[str]) -> None:
        staged = self.get(image.id)
        if staged is None or staged.data.get("size") not in (None, sent.size):
            raise Unavailable(f"{self.cloud.name}: what was staged for image {image.id} is not {sent.file}")

        def begin() -> None:
            self.cloud.glance.images.image_import(image.id, method, stores=list(stores) or None, allow_failure=False)

        patiently(f"{self.cloud.name}: import image {image.id}", begin, patience=0.0, control=sent.control)

    def await_active(self, id: str, control: Control, timeout: float = 3600.0) -> Image:
        """Wait until an image has its data; raises Unavailable (its upload was ended), Refused (it is gone), TimedOut."""
        end = time.monotonic() + timeout
        while True:
            image = self.get(id)
            if image is None or image.status in _GONE:
                raise Refused(f"{self.cloud.name}: image {id} is gone, it was not made")
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

        self._ask(f"delete image {id}", work, control, patience)

    def _try_to_remove(self, id: str) -> None:
        """Of what nobody reads: what can't be removed now is left for whoever tidies up."""
        try:
            self.remove(id, patience=_BRIEFLY)
        except ImageflowError as error:
            LOG.warning("image %s is left: %s", id, error)

    # -- reading -------------------------------------------------------------------------------------

    def chunks(self, image: Image, control: Control) -> Iterator[bytes]:
        """Its data, in pieces, as Glance sends it; raises Unavailable, NotFound, Corrupt."""

        def begin() -> Iterator[bytes]:
            return iter(self.cloud.glance.images.data(image.id, do_checksum=False) or ())

        found = self._ask(f"download image {image.id}", begin, control)
        done, size = 0, int(image.data.get("size") or 0)
        named = f"{self.cloud.name}: image {image.id}"
        try:
            while True:
                control.check()
                try:
                    piece = patiently(named, lambda: next(found, b""), patience=0.0)
                except Unavailable as error:
                    raise BrokeOff(error.message, done=done) from error
                if not piece:
                    break
                done += len(piece)
                yield piece
        finally:
            if (close := getattr(found, "close", None)) is not None:
                close()
        if done < size:
            raise BrokeOff(f"{named}: the download broke off after {done} bytes", done=done)

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
        if (other is not None and other.hexdigest() != value) or (sha256 is not None and digest.hexdigest() != sha256):
            raise Corrupt(f"{self.cloud.name}: image {image.id} is not what was stored")
        return digest.hexdigest()


class _Sent:
    """A file that is sent, maybe more than once, and what is known of its bytes."""

    def __init__(self, file: Path, sha256: str | None, control: Control, progress: Callable[[float], None]) -> None:
        self.file, self.control = file, control
        self._wanted, self._progress = sha256, progress
        self._body: _Body | None = None
        self._known: dict[str, str] = {}  # algorithm -> hash of the file

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.file.stat().st_size

    @contextlib.contextmanager
    def opened(self) -> Iterator[_Body]:
        """The file from its beginning."""
        with self.file.open("rb", buffering=0) as raw:
            self._body = _Body(raw, self.size, self.control, self._progress)
            yield self._body

    def finish(self) -> None:
        """All of it was accepted: raises Corrupt when it was not the file that was to be sent, Unavailable when not all."""
        body = self._body
        assert body is not None
        if body.sent != self.size:
            raise Unavailable(f"{body.sent} of the {self.size} bytes of {self.file} were asked for")
        self._known = {"sha256": body.sha256.hexdigest(), "sha512": body.sha512.hexdigest()}
        if self._wanted is not None and self._wanted != self._known["sha256"]:
            raise Corrupt(f"{self.file} is not what it was: its SHA-256 is {self._known['sha256'][:12]}…")

    def is_in(self, image: Image) -> bool:
        """Whether an image holds these bytes, as far as can be known."""
        if not self.file.exists():
            return True  # it was sent before, and is not needed any more
        if image.data.get("size") != self.size:
            return False
        algorithm, _, value = image.hash.partition(":")
        if algorithm not in hashlib.algorithms_available:
            return True  # its size is right, and more can't be known
        if algorithm not in self._known:
            self._known[algorithm] = self._read(algorithm)
        return value == self._known[algorithm]

    def _read(self, algorithm: str) -> str:
        digest = hashlib.new(algorithm)
        with self.file.open("rb") as reader:
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
                self.control.check()
        return digest.hexdigest()


class _Body:
    """An open file that is hashed while it is sent; it counts what was read."""

    def __init__(self, raw: IO[bytes], size: int, control: Control, progress: Callable[[float], None]) -> None:
        self._raw, self._control, self._progress = raw, control, progress
        self._size, self.sent = size, 0
        self.sha256, self.sha512 = hashlib.sha256(), hashlib.sha512()

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        self._control.check()
        data = self._raw.read(size)
        self.sha256.update(data)
        self.sha512.update(data)
        self.sent += len(data)
        self._progress(self.sent / self._size if self._size else 1.0)
        return data


def _image(raw: Any) -> Image:
    data = dict(raw)
    return Image(str(data["id"]), str(data.get("name") or ""), str(data.get("status") or ""), data)
