"""Glance as a store: a version is one set of images, one for each of its files, made by one build.

Every image says of which version it is, and which file of it (`imageflow:digest`, `imageflow:artifact` …). The version
is there for readers when all of its images are active and the primary one says `imageflow:whole`, which is set last,
together with its visibility. Two builds that made the same bytes have a set each: nothing is shared, nothing raced for.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import (
    ClaimLost,
    ConfigError,
    Corrupt,
    ImageflowError,
    NotFound,
    Refused,
    TimedOut,
    Unavailable,
)
from imageflow.model import Artifact
from imageflow.openstack import Cloud
from imageflow.openstack.image import BUILD, CREATED, WHOLE, Image
from imageflow.openstack.images import Images
from imageflow.openstack.properties import checked, formats
from imageflow.openstack.trouble import Busy, OverQuota
from imageflow.stores import About, ImageRef
from imageflow.stores.places import DIGEST as IS_DIGEST
from imageflow.stores.places import appearing, artifact_of, check_names
from imageflow.stores.published import (
    ARTIFACT,
    CORRUPT,
    DIGEST,
    KIND,
    VERSION,
    ImageSet,
    described,
    sets_of,
)
from imageflow.stores.streams import Sparse, Stream
from imageflow.stores.verification import compare

LOG = logging.getLogger(__name__)
_RESUMED = (Unavailable, TimedOut, ClaimLost)  # after these somebody goes on, with what has arrived already
_BUSY = 30.0  # seconds that an image which is used is asked to go: the janitor comes again
_TRIES = 4  # to publish what others take away
_PATIENCE = (
    20.0  # seconds within one attempt of a publisher: the next one comes anyway, and says meanwhile what is wrong
)


class _WentAway(Unavailable):
    """Somebody removed an image of ours: another publisher of the same build whose set is the one that stays, or a person."""


class GlanceStore:
    """Image versions in the Glance of one cloud, in our own project; safe for any number of processes at once."""

    name = "glance"
    shared = True

    def __init__(self, config: Config) -> None:
        """Raises ConfigError where [glance] contradicts itself; the cloud is not reached yet."""
        if len(config.glance.stores) > 1 and config.glance.import_method == "upload":
            raise ConfigError(
                "[glance] stores: an upload goes into one store", hint="set [glance] import_method = glance-direct"
            )
        self._config = config.glance
        self._images = Images(Cloud(config.openstack))
        self.place = (self.name, config.openstack.cloud or "", config.openstack.region or "")

    @classmethod
    def at(cls, config: Config, where: str) -> Config:
        """See the protocol: CLOUD or CLOUD/REGION."""
        cloud, _, region = where.partition("/")
        if not cloud or "/" in region:
            raise ConfigError(f"{where!r} names no cloud")
        patience = min(config.openstack.patience, _PATIENCE)
        reached = replace(config.openstack, cloud=cloud, region=region or None, patience=patience)
        return replace(config, store=cls.name, openstack=reached)

    def configured(self) -> None:
        """See the protocol."""
        _ = self._images.cloud.session

    def ready(self, *, used: bool) -> None:
        """See the protocol: whoever asks Glance is told."""

    def check_properties(self, properties: Mapping[str, Any]) -> None:
        """See the protocol: what Glance would refuse when all is built."""
        checked(properties)

    # -- finding -------------------------------------------------------------------------------------

    def find(self, digest: str, build_id: str | None = None) -> ImageRef | None:
        """See the protocol; the oldest set that is whole."""
        whole = [one for one in self._sets(digest) if one.whole]
        own = [one for one in whole if one.build_id == build_id]
        return (own or whole)[0].ref(self.name) if whole else None

    def list(self, build_id: str | None = None) -> Sequence[ImageRef]:
        """See the protocol; oldest first, one of each digest."""
        found: dict[str, ImageRef] = {}
        for one in sets_of(self._images.find({KIND: VERSION} | ({BUILD: build_id} if build_id else {}))):
            if one.whole:
                found.setdefault(one.digest, one.ref(self.name))
        return list(found.values())

    def _sets(self, digest: str, build_id: str | None = None) -> Sequence[ImageSet]:
        """What there is of a version, whole or not, oldest first."""
        if not IS_DIGEST.fullmatch(digest):
            return []
        wanted = {KIND: VERSION, DIGEST: digest} | ({BUILD: build_id} if build_id else {})
        return sets_of(self._images.find(wanted))

    # -- adding --------------------------------------------------------------------------------------

    def add(
        self,
        files: Sequence[tuple[Path, Artifact]],
        *,
        build_id: str,
        control: Control,
        move: bool = False,
        about: About | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> ImageRef:
        """See the protocol. What an interrupted one has sent already is not sent again."""
        check_names([artifact for _, artifact in files])
        digest = files[0][1].digest
        about = about or About(Path(files[0][1].name).stem)
        checked(about.properties)
        control.check()
        done = self._own(digest, build_id)
        if done is None or not done.whole:
            _check_files(files)
            self._check_cloud(digest, build_id, about, control)
            done = self._made(files, digest, build_id, about, control, progress)
        if move:
            for source, _ in files:
                with contextlib.suppress(OSError):
                    source.unlink()
        return done.ref(self.name)

    def _made(
        self,
        files: Sequence[tuple[Path, Artifact]],
        digest: str,
        build_id: str,
        about: About,
        control: Control,
        progress: Callable[[float], None],
    ) -> ImageSet:
        """Send and publish, once more where another publisher of the same build took an image of ours away."""
        for tries_left in reversed(range(_TRIES)):
            there = self._own(digest, build_id)
            if there is not None and there.whole:
                return there
            if there is not None and there.corrupt:
                self._remove(there)
            try:
                self._send(files, digest, build_id, about, control, progress)
                return self._publish(files, digest, build_id, about, control)
            except _WentAway as error:
                if not tries_left:
                    raise
                LOG.info("%s: looking what is there", error)
                control.wait(random.uniform(0.1, 0.5))  # not in step with the other one
            except _RESUMED:
                raise
            except ImageflowError:
                self._discard(digest, build_id)
                raise
        raise AssertionError

    def _check_cloud(self, digest: str, build_id: str, about: About, control: Control) -> None:
        """What would be refused when everything has been sent is refused now."""
        wanted = self._config
        if wanted.import_method != "upload":
            self._images.check_import(wanted.import_method)
        if wanted.stores:
            self._images.check_stores(wanted.stores)
        if self._visibility(about) in ("public", "community"):
            # An image without data or a name, for a moment, and not in anybody's list.
            try:
                probe = self._images.create(
                    {
                        "visibility": self._visibility(about),
                        "os_hidden": True,
                        "disk_format": "raw",
                        "container_format": "bare",
                        KIND: VERSION,
                        DIGEST: digest,
                        BUILD: build_id,
                    },
                    control,
                )
            except Refused as error:
                raise self._not_visible(about, error) from error
            self._images.remove(probe.id, control)

    def _send(
        self,
        files: Sequence[tuple[Path, Artifact]],
        digest: str,
        build_id: str,
        about: About,
        control: Control,
        progress: Callable[[float], None],
    ) -> None:
        total = sum(artifact.size for _, artifact in files) or 1
        before = 0
        for position, (path, artifact) in enumerate(files):
            identity = {KIND: VERSION, BUILD: build_id, DIGEST: digest, ARTIFACT: artifact.name}
            name, said = described(about, [one for _, one in files], position)
            self._images.upload(
                path,
                name=name,
                disk_format=said.pop("disk_format"),
                identity=identity,
                about={**said, "visibility": "private", CREATED: f"{time.time():017.6f}"},
                sha256=artifact.digest,
                control=control,
                progress=_share(progress, before / total, artifact.size / total),
                method=self._config.import_method,
                stores=self._config.stores,
            )
            before += artifact.size
            progress(min(1.0, before / total))

    def _publish(
        self, files: Sequence[tuple[Path, Artifact]], digest: str, build_id: str, about: About, control: Control
    ) -> ImageSet:
        """Make it whole for readers, the primary image last; -> what is there then."""
        names = [artifact.name for _, artifact in files]
        there = self._own(digest, build_id)
        if there is None or [image.says(ARTIFACT) for image in there.images] != names:
            raise _WentAway(f"{self._images.cloud.name}: images of {digest[:12]} went away while they were stored")
        change = {WHOLE: str(len(files)), "visibility": self._visibility(about)}
        kernels = {}
        if not about.boot_loader:
            by_format = {artifact.format: image.id for (_, artifact), image in zip(files, there.images, strict=True)}
            kernels = {
                key: by_format[format]
                for key, format in (("kernel_id", "kernel"), ("ramdisk_id", "initrd"))
                if format in by_format
            }
        try:
            for position, image in reversed(list(enumerate(there.images))):
                control.check()  # the last moment at which a worker that lost its claim can still be stopped
                self._images.update(image.id, change | (kernels if position == 0 else {}))
        except NotFound as error:
            raise _WentAway(f"{error.message}: it went away while it was published") from error
        except Refused as error:
            raise self._not_visible(about, error) from error
        done = self._own(digest, build_id)
        if done is None or not done.whole:
            raise _WentAway(f"{self._images.cloud.name}: images of {digest[:12]} went away while they were published")
        for image in done.others:
            self._images.try_to_remove(image.id)
        return done

    def _own(self, digest: str, build_id: str) -> ImageSet | None:
        found = self._sets(digest, build_id)
        return found[0] if found else None

    def _visibility(self, about: About) -> str:
        return about.visibility or self._config.visibility

    def _not_visible(self, about: About, error: Refused) -> Refused:
        visibility = self._visibility(about)
        if visibility in ("private", "shared") or isinstance(error, OverQuota):
            return error
        return Refused(
            f"{self._images.cloud.name} does not let us publish {visibility} images: {error.message}",
            hint="choose another publish.visibility (private, shared, community), or ask for the role that may do it",
        )

    def _discard(self, digest: str, build_id: str) -> None:
        """Nothing is left of a version that was refused; what can't be removed now, the janitor does."""
        try:
            for one in self._sets(digest, build_id):
                if not one.whole:
                    self._remove(one)
        except ImageflowError as error:
            LOG.warning("images of %s are left in %s: %s", digest[:12], self._images.cloud.name, error)

    # -- reading -------------------------------------------------------------------------------------

    def open(self, ref: ImageRef, artifact: str | None = None) -> IO[bytes]:
        """See the protocol. At its end the hash is compared: raises Corrupt, and Unavailable when it breaks off."""
        wanted = artifact_of(ref, artifact)
        image = self._image(ref, wanted)
        return io.BufferedReader(Stream(self._images.chunks(image, Control()), wanted), 1 << 20)

    def copy_out(self, ref: ImageRef, artifact: str | None, to: Path, control: Control) -> Path:
        """See the protocol. Runs of zeros become holes; the hash is compared before the file appears."""
        wanted = artifact_of(ref, artifact)
        image = self._image(ref, wanted)
        with appearing(to, wanted.name) as (half, whole):
            with half.open("xb", buffering=0) as file:
                self._images.download(image, Sparse(file), control, sha256=wanted.digest)  # type: ignore[arg-type]
                file.truncate(file.tell())
                os.fsync(file.fileno())
            return whole

    def _image(self, ref: ImageRef, artifact: Artifact) -> Image:
        """The image with this artifact: of the set that the ref is of, or else of the oldest that is whole."""
        whole = [one for one in self._sets(ref.digest) if one.whole]
        whole.sort(key=lambda one: one.images[0].id != ref.path)
        for one in whole:
            for image in one.images:
                if image.says(ARTIFACT) == artifact.name:
                    return image
        raise NotFound(f"image {ref.digest[:12]} is not in {self._images.cloud.name}")

    def verify(self, digest: str, control: Control, progress: Callable[[float], None] = lambda _: None) -> None:
        """See the protocol. All sets that are whole are read; one that fails is hidden, and no longer found until it passes."""
        found = self._sets(digest)
        looked = [one for one in found if one.whole] or [one for one in found if one.published]
        if not looked:
            raise NotFound(f"there is no image with digest {digest} in {self._images.cloud.name}")
        total = sum(image.size for one in looked for image in one.images) or 1
        done, told = 0, 0.0

        def report(count: int) -> None:
            nonlocal done, told
            done += count
            told = max(told, min(1.0, done / total))  # what breaks off begins again
            progress(told)

        wrong: Corrupt | None = None
        for one in looked:
            try:
                compare(self._images, one, control, report)
            except Corrupt as error:
                self._mark(one, corrupt=True)
                wrong = wrong or error
            else:
                if one.corrupt:
                    self._mark(one, corrupt=False)
        if wrong is not None:
            raise wrong
        progress(1.0)

    def _mark(self, one: ImageSet, *, corrupt: bool) -> None:
        """Whether the version is damaged; then nobody sees it in a list any more."""
        for image, artifact in zip(one.images, one.artifacts, strict=True):
            hidden = corrupt or bool(formats(artifact.format).get("os_hidden"))
            change: dict[str, Any] = {"os_hidden": hidden} | ({CORRUPT: "true"} if corrupt else {})
            try:
                self._images.update(image.id, change, remove=() if corrupt else (CORRUPT,))
            except NotFound:
                continue

    # -- removing ------------------------------------------------------------------------------------

    def delete(self, digest: str, build_id: str | None = None) -> None:
        """See the protocol. Raises Busy while an image is used, Refused when it is protected."""
        for one in self._sets(digest, build_id):
            self._remove(one)

    def _remove(self, one: ImageSet) -> None:
        """The primary image first: a version is gone for readers when its removal begins."""
        for image in one.all:
            self._images.remove(image.id, patience=_BUSY)

    def tidy(self, alive: Callable[[str], bool]) -> Sequence[str]:
        """See the protocol."""
        removed = []
        for found in sets_of(self._images.find({KIND: VERSION})):
            if not found.superfluous or alive(found.build_id):
                continue
            for one in self._sets(found.digest, found.build_id):  # a list takes two looks: it may have grown meanwhile
                for image in one.superfluous:
                    said = f"image {image.id} ({image.name or 'nameless'}) of build {one.build_id}"
                    try:
                        self._images.remove(image.id, patience=_BUSY)
                    except (Refused, Busy) as error:  # one that is protected, or used, must not keep the others
                        LOG.info("%s is left: %s", said, error)
                    else:
                        removed.append(said)
        return removed


def _share(progress: Callable[[float], None], begin: float, share: float) -> Callable[[float], None]:
    """The progress of a part of something."""
    return lambda part: progress(min(1.0, begin + share * part))


def _check_files(files: Sequence[tuple[Path, Artifact]]) -> None:
    for path, artifact in files:
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise NotFound(f"the file to store is not there: {path}") from error
        if size != artifact.size:
            raise Corrupt(f"{path} has {size} bytes, and should have {artifact.size}")
