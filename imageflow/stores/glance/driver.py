"""Glance as a store: a version is a set of images, one for each of its files, made by one build.

The properties of every image tell its version and file (`imageflow:digest`, `imageflow:artifact` …). Readers see the
version once all of its images are active and the primary one has `imageflow:whole`, which is set last, together with
its visibility. Two builds that made the same bytes have a set each: nothing is shared, so there are no races.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from imageflow.config import Config
from imageflow.errors import ConfigError, Corrupt, NotFound, Refused
from imageflow.host.control import Control
from imageflow.model import Artifact
from imageflow.openstack import Cloud
from imageflow.openstack.cloud_errors import Busy
from imageflow.openstack.image import BUILD, GlanceImage
from imageflow.openstack.images import Images
from imageflow.openstack.properties import checked, formats
from imageflow.stores import About, ImageRef
from imageflow.stores.glance.addition import Addition
from imageflow.stores.glance.sets import ARTIFACT, CORRUPT, KIND, VERSION, ImageSet, sets_of
from imageflow.stores.glance.streams import Sparse, Stream
from imageflow.stores.glance.verification import compare
from imageflow.stores.glance.versions import BUSY, remove, versions
from imageflow.stores.places import appearing, artifact_of, check_names

LOG = logging.getLogger(__name__)
_PATIENCE = 20.0  # seconds within one attempt of a publisher: another attempt follows and reports the error


class GlanceStore:
    """Image versions in one cloud's Glance, in our own project; safe for any number of processes at once."""

    name = "glance"
    shared = True

    def __init__(self, config: Config) -> None:
        """Raises ConfigError when [glance] contradicts itself; makes no connection yet."""
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
        """See the protocol: any request to Glance reports it."""

    def check_properties(self, properties: Mapping[str, Any]) -> None:
        """See the protocol: refuse early what Glance would refuse after the build."""
        checked(properties)

    # -- finding -------------------------------------------------------------------------------------

    def find(self, digest: str, build_id: str | None = None) -> ImageRef | None:
        """See the protocol; the oldest complete set."""
        whole = [one for one in versions(self._images, digest) if one.whole]
        own = [one for one in whole if one.build_id == build_id]
        return (own or whole)[0].ref(self.name) if whole else None

    def list(self, build_id: str | None = None) -> Sequence[ImageRef]:
        """See the protocol; oldest first, one per digest."""
        found: dict[str, ImageRef] = {}
        for one in sets_of(self._images.find({KIND: VERSION} | ({BUILD: build_id} if build_id else {}))):
            if one.whole:
                found.setdefault(one.digest, one.ref(self.name))
        return list(found.values())

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
        """See the protocol. Files that an interrupted attempt sent are not sent again."""
        check_names([artifact for _, artifact in files])
        digest = files[0][1].digest
        about = about or About(Path(files[0][1].name).stem)
        checked(about.properties)
        control.check()
        own = versions(self._images, digest, build_id)
        done = own[0] if own and own[0].whole else None
        if done is None:
            done = Addition(self._images, self._config, files, build_id, about, control, progress).run()
        if move:
            for source, _ in files:
                with contextlib.suppress(OSError):
                    source.unlink()
        return done.ref(self.name)

    # -- reading -------------------------------------------------------------------------------------

    def open(self, ref: ImageRef, artifact: str | None = None) -> IO[bytes]:
        """See the protocol. The hash is compared at the end: reading raises Corrupt, and Unavailable when it is cut off."""
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

    def _image(self, ref: ImageRef, artifact: Artifact) -> GlanceImage:
        """The image with this artifact: of the ref's own set, otherwise of the oldest complete one."""
        whole = [one for one in versions(self._images, ref.digest) if one.whole]
        whole.sort(key=lambda one: one.images[0].id != ref.path)
        for one in whole:
            for image in one.images:
                if image.says(ARTIFACT) == artifact.name:
                    return image
        raise NotFound(f"image {ref.digest[:12]} is not in {self._images.cloud.name}")

    def verify(self, digest: str, control: Control, progress: Callable[[float], None] = lambda _: None) -> None:
        """See the protocol. All complete sets are read; one that fails is hidden and no longer found until it passes."""
        found = versions(self._images, digest)
        looked = [one for one in found if one.whole] or [one for one in found if one.published]
        if not looked:
            raise NotFound(f"there is no image with digest {digest} in {self._images.cloud.name}")
        total = sum(image.size for one in looked for image in one.images) or 1
        done, told = 0, 0.0

        def report(count: int) -> None:
            nonlocal done, told
            done += count
            told = max(told, min(1.0, done / total))  # an interrupted download starts over
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
        """Mark whether the version is damaged; a damaged one no longer appears in lists."""
        for image, artifact in zip(one.images, one.artifacts, strict=True):
            hidden = corrupt or bool(formats(artifact.format).get("os_hidden"))
            change: dict[str, Any] = {"os_hidden": hidden} | ({CORRUPT: "true"} if corrupt else {})
            try:
                self._images.update(image.id, change, remove=() if corrupt else (CORRUPT,))
            except NotFound:
                continue

    # -- removing ------------------------------------------------------------------------------------

    def delete(self, digest: str, build_id: str | None = None) -> None:
        """See the protocol. Raises Busy while an image is in use, Refused when it is protected."""
        for one in versions(self._images, digest, build_id):
            remove(self._images, one)

    def tidy(self, alive: Callable[[str], bool]) -> Sequence[str]:
        """See the protocol."""
        removed = []
        for found in sets_of(self._images.find({KIND: VERSION})):
            if not found.superfluous or alive(found.build_id):
                continue
            for one in versions(
                self._images, found.digest, found.build_id
            ):  # listing takes two requests: the set may have grown meanwhile
                for image in one.superfluous:
                    said = f"image {image.id} ({image.name or 'nameless'}) of build {one.build_id}"
                    try:
                        self._images.remove(image.id, patience=BUSY)
                    except (Refused, Busy) as error:  # a protected or used one must not block the others
                        LOG.info("%s is left: %s", said, error)
                    else:
                        removed.append(said)
        return removed
