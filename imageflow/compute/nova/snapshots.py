"""Snapshots of servers: one image each, however often Nova has to be asked, without what it inherits of its base."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from imageflow.compute.nova.servers import Servers, task
from imageflow.control import Control
from imageflow.errors import NotFound, Refused, TimedOut, Unavailable
from imageflow.openstack import Cloud
from imageflow.openstack.image import PREFIX, Image
from imageflow.openstack.images import Images
from imageflow.openstack.properties import product

_POLL = 0.5  # seconds
_TRIES = 5
_PENDING = "image_snapshot_pending"  # the task of a server whose host is to begin
_LATE = 15.0  # seconds until the image of a snapshot that Nova may have begun must be seen


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
    begin: float,
) -> Image:
    """The image with this identity, made of the server's disk; found, when an earlier worker made or began it.

    Nova's image is active before the server can be asked for something else: this waits for both. `begin`: seconds in
    which the server's host must have heard of it. Raises MachineLost where it never will.
    """
    end = time.monotonic() + timeout
    asked, begun = -_LATE, 0
    said = _said(images, server, identity)
    trouble: Exception | None = None
    pending: float | None = None
    while True:
        control.check()
        found = servers.get(server.id)
        if found is None:
            raise NotFound(f"the server of {server.name} is gone")
        there = images.find(identity, snapshots=True)
        done = [image for image in there if image.active]
        if done and task(found) is None:
            return _cleaned(images, done[0], there, identity, control)
        # a half image of a server that does nothing will never be whole
        idle = task(found) is None and time.monotonic() - asked > _LATE
        if idle:
            for half in there:
                images.remove(half.id, control)
            if begun == _TRIES:
                raise Refused(
                    f"Nova has begun the snapshot of {server.name} {begun} times, and finished none",
                    hint="is there space where it runs, and in Glance? nova-compute's log says why",
                )
            try:
                servers.ask_once("a snapshot", functools.partial(cloud.nova.servers.create_image, found, name, said))
                asked, begun = time.monotonic(), begun + 1
            except Unavailable as error:
                trouble = error
        pending = (pending or time.monotonic()) if task(found) == _PENDING else None
        if pending is not None and time.monotonic() - pending > begin:
            if servers.unheard(found):
                for image in there:  # a whole one, too: its server is not the one that is made next
                    images.try_to_remove(image.id)
                raise servers.given_up(found, "a snapshot", control)
            pending = None  # the host has others to make first
        if time.monotonic() > end:
            raise trouble or TimedOut(
                f"the snapshot of {server.name} takes longer than {timeout:.0f} seconds",
                hint="see [nova] snapshot_timeout",
            )
        control.wait(_POLL)


def _said(images: Images, server: Any, identity: Mapping[str, str]) -> dict[str, str]:
    """What the image is to say from its first moment: who it is, and nothing of ours that its base says of itself."""
    base = images.get(server.image["id"]) if server.image else None
    inherited = {key: "" for key in (base.data if base is not None else {}) if key.startswith(PREFIX)}
    return {**inherited, **identity}


def _cleaned(
    images: Images, image: Image, there: Sequence[Image], identity: Mapping[str, str], control: Control
) -> Image:
    """The only one that is left, without what it inherits."""
    for other in there:
        if other.id != image.id:
            images.remove(other.id, control)
    _keep, inherited = product(image.data)
    wrong = [name for name in inherited if name not in identity]
    return images.update(image.id, {}, remove=wrong) if wrong else image
