"""Snapshots of servers: one image each, however often Nova has to be asked, without what it inherits of its base."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from typing import Any

from imageflow.compute.nova.servers import Servers, task
from imageflow.control import Control
from imageflow.errors import NotFound, TimedOut, Unavailable
from imageflow.openstack import Cloud
from imageflow.openstack.images import Image, Images

_POLL = 0.5  # seconds
_LATE = 15.0  # seconds until the image of a snapshot that Nova may have begun must be seen
# What a snapshot has of the machine that it was taken of, and nobody wants in a new one.
INHERITED: tuple[str, ...] = (
    *("base_image_ref", "boot_roles", "image_type", "user_id", "instance_uuid", "image_state", "image_location"),
    *("os_shutdown_timeout", "hw_rescue_device", "hw_rescue_bus", "clean_attempts"),
)


def snapshot(
    servers: Servers,
    images: Images,
    cloud: Cloud,
    server: Any,
    name: str,
    identity: Mapping[str, str],
    *,
    control: Control,
    timeout: float,
) -> Image:
    """The image with this identity, made of the server's disk; found, when an earlier worker made or began it.

    Nova's image is active before the server can be asked for something else: this waits for both.
    """
    end = time.monotonic() + timeout
    asked = 0.0
    trouble: Exception | None = None
    while True:
        control.check()
        found = servers.get(server.id)
        if found is None:
            raise NotFound(f"the server of {server.name} is gone")
        there = images.find(identity)
        done = [image for image in there if image.active]
        if done and task(found) is None:
            for other in there:
                if other.id != done[0].id:
                    images.remove(other.id, control)
            return _cleaned(images, done[0])
        # a half image of a server that does nothing will never be whole
        idle = task(found) is None and time.monotonic() - asked > _LATE
        if idle:
            for half in there:
                images.remove(half.id, control)
            try:
                servers.ask_once(
                    "a snapshot", functools.partial(cloud.nova.servers.create_image, found, name, dict(identity))
                )
                asked = time.monotonic()
            except Unavailable as error:
                trouble = error
        if time.monotonic() > end:
            raise trouble or TimedOut(
                f"the snapshot of {server.name} takes longer than {timeout:.0f} seconds",
                hint="see [nova] snapshot_timeout",
            )
        control.wait(_POLL)


def _cleaned(images: Images, image: Image) -> Image:
    inherited = [key for key in image.data if key in INHERITED or key.startswith(("owner_", "image_base_"))]
    return images.update(image.id, {}, remove=inherited) if inherited else image
