"""Layers as private images in the cloud's Glance: each has all that is on its disk, whatever it stands on.

What a layer of ours is stands in its image's properties; who holds it, in its tags, which are put on and taken off one by one.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from imageflow.compute import FORMATS, Layer, MachineSpec, Source
from imageflow.compute.nova import media
from imageflow.compute.nova.adopted import Adopted
from imageflow.compute.qemu.disks import check_base
from imageflow.control import Control
from imageflow.errors import NotFound, Refused
from imageflow.openstack.image import BUILD, PREFIX, Image
from imageflow.openstack.images import Images

LAYER, PARENT, TITLE = f"{PREFIX}layer", f"{PREFIX}parent", f"{PREFIX}title"
_USED, _COLLECTED = f"{PREFIX}used", f"{PREFIX}collected"
_HELD = "imageflow-held-"  # a tag, and the build
_NAME = "imageflow-layer-"


class NovaLayers:
    """The layers of one project in one cloud."""

    cheap = False

    def __init__(self, images: Images, folder: Path) -> None:
        """`folder`: of this host, for what is known of images that are not ours."""
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
            # Who collects marks it first and looks for holders then: one of us two sees the other.
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
        image = self._images.upload(
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
                self._images.try_to_remove(image.id)  # one that is protected must not keep the others
        # Who is alive may also be another imageflow's: what its builds made is its own to collect.
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
        """By which a layer that a build makes is found again, whoever began it."""
        return {LAYER: key, BUILD: build_id}

    def of(self, key: str, build_id: str) -> Layer | None:
        """The one that this build has made already."""
        found = [image for image in self._images.find(self.identity(key, build_id)) if _good(image)]
        return self._layer(found[0]) if found else None

    def made(self, image: Image, *, parent: str | None, title: str) -> Layer:
        """The snapshot is there: it is a layer from now on, held by its build."""
        about = {TITLE: title, PARENT: parent or "", _USED: _time(time.time()), "os_hidden": True}
        self._images.tag(image.id, _HELD + image.says(BUILD))
        return self._layer(self._images.update(image.id, about))

    # -- inside --------------------------------------------------------------------------------------

    def _newest(self, key: str) -> Image | None:
        return next((image for image in reversed(self._images.find({LAYER: key})) if _good(image)), None)

    def _there(self, adopted: Layer) -> bool:
        image = self._images.get(adopted.source.path)
        return image is not None and image.active

    def _take(self, image: Image, alive: Callable[[str], bool]) -> bool:
        """Remove a layer, unless somebody took it in this very moment."""
        with contextlib.suppress(NotFound):
            self._images.update(image.id, {_COLLECTED: "yes"})
            now = self._images.get(image.id)
            if now is not None and any(map(alive, _holders(now.data))):
                self._images.update(image.id, {}, remove=[_COLLECTED])
                return False
            self._images.try_to_remove(image.id)  # a server may stand on it, where disks are not copied
        return self._images.get(image.id) is None

    def _layer(self, image: Image) -> Layer:
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


def ours(image: Image) -> bool:
    """Whether a layer was made by us: a snapshot that a person takes of a build's server says the same of itself."""
    return image.says(LAYER) != "" and image.name == f"{_NAME}{image.says(LAYER)[:12]}"


def firmware(image: Image, spec: MachineSpec) -> tuple[dict[str, str], list[str]]:
    """What a layer has to say, and not to say, so that a server boots it by this firmware; nothing for other images.

    A snapshot says what its server was. A base that was taken in is one layer for machines of every firmware.
    """
    if not ours(image):
        return {}, []
    wanted = media.firmware(spec)
    change = {name: value for name, value in wanted.items() if image.says(name) != value}
    drop = [] if wanted or PARENT in image.data else [name for name in media.UEFI if name in image.data]
    return change, drop


def _good(image: Image) -> bool:
    """Whether machines can start from it: it was said to be a layer once its data was there, and nobody collects it.

    Not every image that is active is one: an upload that broke off may leave it active, and short.
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
