"""Base images and installer ISOs: fetched once, checked against their digest, cached on this host."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from imageflow.config import Config
from imageflow.errors import TooLarge
from imageflow.fetch import guard
from imageflow.fetch.address import file_of, shown
from imageflow.fetch.digests import local
from imageflow.fetch.downloads import Downloads, collect
from imageflow.fetch.hashing import corrupt
from imageflow.fetch.room import Room
from imageflow.host.control import Control

__all__ = ["collect", "fetch", "fetch_by", "local", "shown"]


def fetch(
    url: str,
    sha256: str,
    *,
    config: Config,
    control: Control,
    log: Callable[[str], None],
    progress: Callable[[float, str], None] = lambda done, phase: None,
) -> Path:
    """The file behind an http, https or file URL, with this SHA-256; from the cache if possible.

    The returned file must not be written to. A download interrupted by a crash, a cancel or a full disk is
    resumed. If several builds want the same file at once, one downloads it and the others wait.
    Proxies come from the environment. A file URL is checked in place, not copied.

    Raises Corrupt for another digest, Refused when the server refuses, TooLarge, NoSpace, Unavailable after several
    attempts, and what `control` raises.
    """
    wanted = sha256.strip().lower()
    if path := file_of(url):
        progress(0.0, "check")
        local(path, wanted, config=config, control=control, progress=lambda done: progress(done, "check"))
        return path
    downloads = Downloads(config)
    if (path := downloads.find(wanted)) is None:
        with downloads.part(wanted, control, log) as part:
            if part is not None:
                from imageflow.fetch.transfer import Transfer  # importing requests takes a tenth of a second

                room = Room(config, shown(url), downloads.folder)
                transfer = Transfer(url, wanted, part, control, log, progress, guard.policy(config), room)
                try:
                    found = transfer.run()
                except TooLarge:
                    part.drop()
                    raise
                if found != wanted:
                    part.drop()
                    raise corrupt(shown(url), wanted, found)
                part.finish()
        path = downloads.get(wanted)
    else:
        log(f"{shown(url)}: in the cache")
    progress(1.0, "done")
    return path


def fetch_by(
    download: Callable[[IO[bytes]], None],
    digest: str,
    *,
    name: str,
    otherwise: Path,
    config: Config,
    control: Control,
    log: Callable[[str], None],
) -> Path:
    """The file with this digest (SHA-256, -384 or -512), which `download` writes and checks; from the cache if possible.

    As `fetch`, but a partial file from a crash is written again. If the cache can't take it (its disk is full or
    read-only), it goes into the file `otherwise`. Raises what `download` raises, and NoSpace for an OSError.
    """
    downloads = Downloads(config)
    if (path := downloads.find(digest)) is not None:
        log(f"{name}: in the cache")
        return path
    try:
        with downloads.part(digest, control, log) as part:
            if part is not None:
                try:
                    with _bounded(part.descriptor, Room(config, name, downloads.folder)) as file:
                        download(file)
                    part.finish()
                except (OSError, TooLarge):
                    part.drop()
                    raise
        return downloads.get(digest)
    except OSError as error:
        log(f"{name}: {downloads.folder} can't take it ({error.strerror or error})")
    descriptor = os.open(otherwise, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with _bounded(descriptor, Room(config, name, otherwise.parent)) as file:
            download(file)
    finally:
        os.close(descriptor)
    return otherwise


class _Bounded(io.FileIO):
    """A file that may not grow beyond its room."""

    def __init__(self, descriptor: int, room: Room) -> None:
        super().__init__(descriptor, "r+b", closefd=False)
        self._room = room

    def write(self, data: Any) -> int:
        self._room.grow(self.tell() + len(data), len(data))
        return super().write(data)


def _bounded(descriptor: int, room: Room) -> io.BufferedRandom:
    return io.BufferedRandom(_Bounded(descriptor, room))
