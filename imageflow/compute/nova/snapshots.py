"""Snapshots of servers: one image each, however often Nova has to be asked, without properties of its base."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from imageflow.compute.nova.servers import Servers, task
from imageflow.errors import NotFound, Refused, TimedOut, Unavailable
from imageflow.host.control import Control
from imageflow.openstack import Cloud
from imageflow.openstack.image import PREFIX, GlanceImage
from imageflow.openstack.images import Images
from imageflow.openstack.properties import product

POLL = 0.5  # seconds
_TRIES = 5
_PENDING = "image_snapshot_pending"  # the task of a server whose host has not begun yet
LATE = 15.0  # seconds within which the image of a snapshot that Nova may have begun must appear


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
) -> GlanceImage:
    """The image with this identity, made from the server's disk; found if an earlier worker made or began it.

    Nova's image is active before the server accepts other requests: this waits for both. `begin`: seconds within
    which the server's host must have received the request. Raises MachineLost if it never will.
    """
    end = time.monotonic() + timeout
    asked, begun = -LATE, 0
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
        # a half-made image of an idle server will never be completed
        idle = task(found) is None and time.monotonic() - asked > LATE
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
                for image in there:  # complete ones, too: the next server is another one
                    images.try_to_remove(image.id)
                raise servers.given_up(found, "a snapshot", control)
            pending = None  # the host has other snapshots to make first
        if time.monotonic() > end:
            raise trouble or TimedOut(
                f"the snapshot of {server.name} takes longer than {timeout:.0f} seconds",
                hint="see [nova] snapshot_timeout",
            )
        control.wait(POLL)


def _said(images: Images, server: Any, identity: Mapping[str, str]) -> dict[str, str]:
    """The image's initial properties: its identity, without the `imageflow:` properties of its base."""
    base = images.get(server.image["id"]) if server.image else None
    inherited = {key: "" for key in (base.data if base is not None else {}) if key.startswith(PREFIX)}
    return {**inherited, **identity}


def _cleaned(
    images: Images, image: GlanceImage, there: Sequence[GlanceImage], identity: Mapping[str, str], control: Control
) -> GlanceImage:
    """The only remaining image, without inherited properties."""
    for other in there:
        if other.id != image.id:
            images.remove(other.id, control)
    _keep, inherited = product(image.data)
    wrong = [name for name in inherited if name not in identity]
    return images.update(image.id, {}, remove=wrong) if wrong else image
