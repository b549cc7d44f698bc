"""Layers as private images in the cloud's Glance: each contains its whole disk.

A layer's description is in its image's properties; its holders are in its tags, which can be set one by one.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from imageflow.compute import FORMATS, Layer, MachineSpec, Source
from imageflow.compute.bases import check_base
from imageflow.compute.nova import media
from imageflow.compute.nova.adopted import Adopted
from imageflow.errors import NotFound, Refused
from imageflow.host.control import Control
from imageflow.openstack import uploads
from imageflow.openstack.image import BUILD, PREFIX, GlanceImage
from imageflow.openstack.images import Images

LAYER, PARENT, TITLE = f"{PREFIX}layer", f"{PREFIX}parent", f"{PREFIX}title"
_USED, _COLLECTED = f"{PREFIX}used", f"{PREFIX}collected"
_HELD = "imageflow-held-"  # a tag: this, and the build's id
_NAME = "imageflow-layer-"


class NovaLayers:
    """The layers of one project in one cloud."""

    cheap = False

    def __init__(self, images: Images, folder: Path) -> None:
        """`folder`: on this host, for records of images that are not ours."""
        self._images = images
        self._adopted = Adopted(folder)

    # -- the protocol --------------------------------------------------------------------------------

    def find(self, key: str) -> Layer | None:
        if (adopted := self._adopted.find(key)) is not None and self._there(adopted):
            return adopted
        image = self._newest(key)
        return None if image is None else self._layer(image)

    def hold(self, key: str, build_id: str) -> Layer | None:
        if (adopted := self._adopted.find(key)) is not None and self._there(adopted):
            self._adopted.hold(key, build_id)
            return adopted
        while (image := self._newest(key)) is not None:
            try:
                self._images.tag(image.id, _HELD + build_id)
            except NotFound:
                continue
            # A collector marks the layer first and then looks for holders: one of the two sees the other.
            now = self._images.get(image.id)
            if now is not None and not now.says(_COLLECTED):
                return self._layer(self._images.update(image.id, {_USED: _time(time.time())}))
        return None

    def release(self, build_id: str) -> None:
        self._adopted.release(build_id)
        for image in self._images.find({}, tags=[_HELD + build_id]):
            self._images.untag(image.id, _HELD + build_id)
        for image in self._images.find({BUILD: build_id}, snapshots=True):
            if ours(image) and not _good(image):
                self._images.remove(image.id)

    def add_base(self, key: str, file: Path, format: str, *, title: str, build_id: str, control: Control) -> Layer:
        if format not in FORMATS:
            raise Refused(f"{file}: a disk can't start as {format}", hint=f"convert it to {' or '.join(FORMATS)}")
        if (found := self.hold(key, build_id)) is not None:
            return found
        if not file.exists():
            raise NotFound(f"there is no file {file}")
        check_base(file, format)
        image = uploads.upload(
            self._images,
            file,
            name=_NAME + key[:12],
            disk_format=format,
            identity={LAYER: key, BUILD: build_id},
            about={"visibility": "private", "os_hidden": True, TITLE: title},
            control=control,
        )
        self._images.tag(image.id, _HELD + build_id)
        return self._layer(self._images.update(image.id, {_USED: _time(time.time())}))  # last: see `_good`

    def adopt(self, key: str, image: str, *, title: str, build_id: str) -> Layer | None:
        if (found := self.hold(key, build_id)) is not None:
            return found
        target = self._images.get(image)
        if target is None or not target.active or target.says("disk_format") not in FORMATS:
            return None
        return self._adopted.put(key, image, target.says("disk_format"), title=title, build_id=build_id)

    def list(self) -> Sequence[Layer]:
        found = [self._layer(image) for image in self._images.find({}) if ours(image) and _good(image)]
        found += self._adopted.all()
        return sorted(found, key=lambda layer: layer.created, reverse=True)

    def collect(self, max_age: float, max_size: float, alive: Callable[[str], bool]) -> Sequence[Layer]:
        images = {image.id: image for image in self._images.find({}, snapshots=True) if ours(image)}
        gone = [*self._adopted.collect(max_age, alive)]
        for image in images.values():
            if not _good(image) and not alive(image.says(BUILD)):
                self._images.try_to_remove(image.id)  # a protected one must not block the others
        # A build may belong to another imageflow, which collects what its own builds made.
        mine = (image for image in images.values() if _good(image) and not alive(image.says(BUILD)))
        layers = [(image, self._layer(image)) for image in mine]
        layers.sort(key=lambda pair: pair[1].used, reverse=True)
        room = max_size
        for image, layer in layers:
            room -= layer.size
            old = time.time() - layer.used > max_age or (max_age == 0 and max_size == 0)
            if (old or room < 0) and not any(map(alive, layer.holders)) and self._take(image, alive):
                gone.append(layer)
                room += layer.size
        return gone

    # -- for the driver ------------------------------------------------------------------------------

    def identity(self, key: str, build_id: str) -> dict[str, str]:
        """The properties by which a layer that a build makes is found again by any worker."""
        return {LAYER: key, BUILD: build_id}

    def of(self, key: str, build_id: str) -> Layer | None:
        """The layer, if this build has already made it."""
        found = [image for image in self._images.find(self.identity(key, build_id)) if _good(image)]
        return self._layer(found[0]) if found else None

    def made(self, image: GlanceImage, *, parent: str | None, title: str) -> Layer:
        """Turn a finished snapshot into a layer, held by its build."""
        about = {TITLE: title, PARENT: parent or "", _USED: _time(time.time()), "os_hidden": True}
        self._images.tag(image.id, _HELD + image.says(BUILD))
        return self._layer(self._images.update(image.id, about))

    # -- inside --------------------------------------------------------------------------------------

    def _newest(self, key: str) -> GlanceImage | None:
        return next((image for image in reversed(self._images.find({LAYER: key})) if _good(image)), None)

    def _there(self, adopted: Layer) -> bool:
        image = self._images.get(adopted.source.path)
        return image is not None and image.active

    def _take(self, image: GlanceImage, alive: Callable[[str], bool]) -> bool:
        """Remove a layer, unless a build has just taken hold of it."""
        with contextlib.suppress(NotFound):
            self._images.update(image.id, {_COLLECTED: "yes"})
            now = self._images.get(image.id)
            if now is not None and any(map(alive, _holders(now.data))):
                self._images.update(image.id, {}, remove=[_COLLECTED])
                return False
            self._images.try_to_remove(image.id)  # a server may use it, if disks are not copied
        return self._images.get(image.id) is None

    def _layer(self, image: GlanceImage) -> Layer:
        format = image.says("disk_format") or "qcow2"
        key = image.says(LAYER)
        created = _moment(image.says("created_at"))
        layer = Layer(
            key=key,
            source=Source(image.id, format, key),
            parent=image.says(PARENT) or None,
            build_id=image.says(BUILD),
            title=image.says(TITLE),
            created=created,
            used=float(image.says(_USED) or created),
            size=int(image.data.get("size") or 0),
        )
        return replace(layer, holders=tuple(sorted(_holders(image.data))))


def ours(image: GlanceImage) -> bool:
    """Whether we made the layer: a user's snapshot of a build's server has the same properties."""
    return image.says(LAYER) != "" and image.name == f"{_NAME}{image.says(LAYER)[:12]}"


def firmware(image: GlanceImage, spec: MachineSpec) -> tuple[dict[str, str], list[str]]:
    """Properties to set and to remove so that a server boots the layer with this firmware; nothing for other images.

    A snapshot carries its server's firmware. An imported base is one layer for machines of any firmware.
    """
    if not ours(image):
        return {}, []
    wanted = media.firmware(spec)
    change = {name: value for name, value in wanted.items() if image.says(name) != value}
    drop = [] if wanted or PARENT in image.data else [name for name in media.UEFI if name in image.data]
    return change, drop


def _good(image: GlanceImage) -> bool:
    """Whether machines can start from it: it was marked as a layer after its data was complete, and is not being removed.

    Being active is not enough: an interrupted upload may leave an image active but truncated.
    """
    said = image.says(_USED) != "" and image.says("image_type") != "snapshot"
    return image.active and said and not image.says(_COLLECTED)


def _holders(data: Mapping[str, object]) -> list[str]:
    tags = data.get("tags")
    return [
        str(tag).removeprefix(_HELD) for tag in (tags if isinstance(tags, list) else []) if str(tag).startswith(_HELD)
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.3f}"


def _moment(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp() if text else 0.0
