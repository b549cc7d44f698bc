"""Resolves a name in Glance to its newest image, pinned by the image's id and the hash of its data."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from imageflow.config import Config
from imageflow.config.clouds import OpenStackConfig
from imageflow.errors import RecipeError, Unavailable
from imageflow.recipe import MadeFrom
from imageflow.recipe.inputs import is_id
from imageflow.recipe.problems import short

if TYPE_CHECKING:
    from imageflow.openstack.image import GlanceImage
    from imageflow.openstack.images import Images

_PATIENCE = 15.0  # seconds that Glance may take to answer: the user waits for the plan, and a poller tries again later


class Pinned(NamedTuple):
    """A pinned image in Glance: 'ID:ALGORITHM:HEX'."""

    id: str
    hash: str  # 'ALGORITHM:HEX' of its data

    @classmethod
    def of(cls, pin: str) -> Pinned:
        """Parse a pin."""
        id, _, hash = pin.partition(":")
        return cls(id, hash)

    def __str__(self) -> str:
        return f"{self.id}:{self.hash}"

    @property
    def digest(self) -> str:
        """The hash of its data in hexadecimal digits."""
        return self.hash.rpartition(":")[2]


def look_up(given: MadeFrom, config: Config) -> str:
    """The pin of the image named in a recipe.

    A name means the newest active image that we may use and that has these properties. Raises RecipeError
    when there is none, Unavailable when Glance does not answer, ConfigError.
    """
    image = newest(given, config)
    if not image.hash:
        raise RecipeError(
            f"image {image.id} in Glance has no hash of its data, so it can't be pinned", hint="upload it again"
        )
    return str(Pinned(image.id, image.hash))


def newest(given: MadeFrom, config: Config) -> GlanceImage:
    """The image itself; raises as `look_up`."""
    name, properties = str(given.glance), dict(given.properties)
    with _asking(config) as images:
        return _one(images, name) if is_id(name) else _newest(images, name, properties)


def image(id: str, config: Config) -> GlanceImage | None:
    """The image with this id; None when it is gone or not visible to us. Raises Unavailable, ConfigError."""
    with _asking(config) as images:
        return images.get(id)


@contextlib.contextmanager
def _asking(config: Config) -> Iterator[Images]:
    from imageflow.openstack.cloud_errors import NotAccepted

    try:
        yield _images(config.openstack)
    except NotAccepted:
        _images.cache_clear()  # clouds.yaml may have changed
        raise
    except Unavailable as error:
        hint = error.hint or "'openstack image list' with the same cloud tells whether it answers"
        raise Unavailable(error.message, hint=hint) from error


def _one(images: Images, id: str) -> GlanceImage:
    image = images.get(id)
    if image is None:
        raise RecipeError(
            f"there is no image {id} in {images.cloud.name}'s Glance, or it is not visible to us",
            hint=f"'openstack image show {id}' with the same cloud shows what we can see",
        )
    if image.half:
        raise Unavailable(f"image {id} in Glance is {image.status}", hint="wait until it is active")
    if not image.active:
        hint = f"openstack image set --activate {id}" if image.status == "deactivated" else "name another one"
        raise RecipeError(f"image {id} in Glance is {image.status}", hint=hint)
    return image


def _newest(images: Images, name: str, properties: dict[str, str]) -> GlanceImage:
    for image in images.offered(name, properties):
        if image.name == name:  # 'in:a,b' has a special meaning in Glance
            return image
    given = "".join(f" --property {shlex.quote(f'{key}={value}')}" for key, value in sorted(properties.items()))
    which = f" and {', '.join(f'{key}: {value}' for key, value in sorted(properties.items()))}" if properties else ""
    raise RecipeError(
        f"there is no active image named {short(name)!r}{which} in {images.cloud.name}'s Glance",
        hint=f"'openstack image list --name {shlex.quote(name)}{given}' with the same cloud shows what we can see",
    )


@functools.lru_cache(maxsize=8)
def _images(config: OpenStackConfig) -> Images:
    """One session for all look-ups, which share a token."""
    from imageflow.openstack import Cloud
    from imageflow.openstack.images import Images

    return Images(Cloud(dataclasses.replace(config, patience=min(config.patience, _PATIENCE))))
