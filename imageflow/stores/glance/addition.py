"""Adds a version to Glance: its files are sent, then published for readers; safe for several publishers at once."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imageflow.config.clouds import GlanceConfig
from imageflow.errors import ClaimLost, Corrupt, ImageflowError, NotFound, Refused, TimedOut, Unavailable
from imageflow.host.control import Control
from imageflow.model import Artifact
from imageflow.openstack import uploads
from imageflow.openstack.cloud_errors import OverQuota
from imageflow.openstack.image import BUILD, CREATED, WHOLE, GlanceImage
from imageflow.openstack.images import Images
from imageflow.stores import About
from imageflow.stores.glance.sets import ARTIFACT, DIGEST, KIND, VERSION, ImageSet, described
from imageflow.stores.glance.versions import remove, versions

LOG = logging.getLogger(__name__)
_RESUMED = (Unavailable, TimedOut, ClaimLost)  # after these another attempt continues with what has arrived already
_TRIES = 4  # attempts to publish while other processes remove images


class _WentAway(Unavailable):
    """One of our images was removed: by a user, or by another publisher of the same build, whose set stays."""


class Addition:
    """Adds one version of one build; files that an interrupted attempt sent are not sent again."""

    def __init__(
        self,
        images: Images,
        config: GlanceConfig,
        files: Sequence[tuple[Path, Artifact]],
        build_id: str,
        about: About,
        control: Control,
        progress: Callable[[float], None],
    ) -> None:
        self._images, self._config, self._cloud = images, config, images.cloud.name
        self._files, self._about, self._build_id = files, about, build_id
        self._digest = files[0][1].digest
        self._identity = {KIND: VERSION, BUILD: build_id, DIGEST: self._digest}
        self._visibility = about.visibility or config.visibility
        self._control, self._progress = control, progress

    def run(self) -> ImageSet:
        """Send and publish, again if another publisher of the same build removed one of our images.

        Raises NotFound, Corrupt (of a file), Refused, Unavailable; a refused version leaves nothing behind.
        """
        self._check_files()
        self._check_cloud()
        for tries_left in reversed(range(_TRIES)):
            there = self._there()
            if there is not None and there.whole:
                return there
            if there is not None and there.corrupt:
                remove(self._images, there)
            try:
                self.send()
                return self._publish()
            except _WentAway as error:
                if not tries_left:
                    raise
                LOG.info("%s: checking what is there", error)
                self._control.wait(random.uniform(0.1, 0.5))  # not in step with the other one
            except _RESUMED:
                raise
            except ImageflowError:
                self._discard()
                raise
        raise AssertionError

    def _there(self) -> ImageSet | None:
        found = versions(self._images, self._digest, self._build_id)
        return found[0] if found else None

    def _check_files(self) -> None:
        for path, artifact in self._files:
            try:
                size = path.stat().st_size
            except FileNotFoundError as error:
                raise NotFound(f"the file to store is not there: {path}") from error
            if size != artifact.size:
                raise Corrupt(f"{path} has {size} bytes, and should have {artifact.size}")

    def _check_cloud(self) -> None:
        """Refuse now what Glance would refuse only after everything was sent."""
        if self._config.import_method != "upload":
            self._images.check_import(self._config.import_method)
        if self._config.stores:
            self._images.check_stores(self._config.stores)
        if self._visibility in ("public", "community"):
            # A short-lived image without data or name, hidden from lists.
            empty = {"os_hidden": True, "disk_format": "raw", "container_format": "bare", **self._identity}
            try:
                probe = self._images.create({"visibility": self._visibility, **empty}, self._control)
            except Refused as error:
                raise self._not_visible(error) from error
            self._images.remove(probe.id, self._control)

    def send(self) -> None:
        """Send all files, each as its own image, not yet visible to readers as the version."""
        artifacts = [artifact for _, artifact in self._files]
        total = sum(artifact.size for artifact in artifacts) or 1
        before = 0
        for position, (path, artifact) in enumerate(self._files):
            name, said = described(self._about, artifacts, position)
            uploads.upload(
                self._images,
                path,
                name=name,
                disk_format=said.pop("disk_format"),
                identity={**self._identity, ARTIFACT: artifact.name},
                about={**said, "visibility": "private", CREATED: f"{time.time():017.6f}"},
                sha256=artifact.digest,
                control=self._control,
                progress=_share(self._progress, before / total, artifact.size / total),
                method=self._config.import_method,
                stores=self._config.stores,
            )
            before += artifact.size
            self._progress(min(1.0, before / total))

    def _publish(self) -> ImageSet:
        """Mark it as complete for readers, the primary image last; -> the published set."""
        there = self._there()
        if there is None or [image.says(ARTIFACT) for image in there.images] != [one.name for _, one in self._files]:
            raise _WentAway(f"{self._cloud}: images of {self._digest[:12]} went away while they were stored")
        change = {WHOLE: str(len(self._files)), "visibility": self._visibility}
        kernels = {} if self._about.boot_loader else self._kernels(there.images)
        try:
            for position, image in reversed(list(enumerate(there.images))):
                self._control.check()  # the last moment at which a worker that lost its claim can still be stopped
                self._images.update(image.id, change | (kernels if position == 0 else {}))
        except NotFound as error:
            raise _WentAway(f"{error.message}: it went away while it was published") from error
        except Refused as error:
            raise self._not_visible(error) from error
        done = self._published()
        if done.others:
            for image in done.others:
                self._images.try_to_remove(image.id)
            done = self._published()  # another publisher with an older view may have chosen the images we removed
        return done

    def _published(self) -> ImageSet:
        there = self._there()
        if there is None or not there.whole:
            raise _WentAway(f"{self._cloud}: images of {self._digest[:12]} went away while they were published")
        return there

    def _kernels(self, images: Sequence[GlanceImage]) -> dict[str, str]:
        """The properties that name kernel and initrd of a disk without a boot loader."""
        by_format = {artifact.format: image.id for (_, artifact), image in zip(self._files, images, strict=True)}
        names = {"kernel_id": "kernel", "ramdisk_id": "initrd"}
        return {name: by_format[format] for name, format in names.items() if format in by_format}

    def _not_visible(self, error: Refused) -> Refused:
        if self._visibility in ("private", "shared") or isinstance(error, OverQuota):
            return error
        return Refused(
            f"{self._cloud} does not let us publish {self._visibility} images: {error.message}",
            hint="choose another publish.visibility (private, shared, community), or ask for the role that may do it",
        )

    def _discard(self) -> None:
        """Remove all of a refused version; what can't be removed now is left to the janitor."""
        try:
            for one in versions(self._images, self._digest, self._build_id):
                if not one.whole:
                    remove(self._images, one)
        except ImageflowError as error:
            LOG.warning("images of %s are left in %s: %s", self._digest[:12], self._cloud, error)


def _share(progress: Callable[[float], None], begin: float, share: float) -> Callable[[float], None]:
    """A progress function for one part of the whole."""
    return lambda part: progress(min(1.0, begin + share * part))
