"""Base images and installer ISOs: fetched once, checked against their digest, kept on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO

from imageflow.config import Config
from imageflow.control import Control
from imageflow.fetch.address import file_of, shown
from imageflow.fetch.digests import local
from imageflow.fetch.downloads import Downloads, collect
from imageflow.fetch.hashing import corrupt

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
    """The file behind an http, https or file URL, with this SHA-256; out of the cache, if it is there.

    Nobody may write to what is returned. What was downloaded before a crash, a cancel or a full disk is
    used again. Of several who want the same file at once, one downloads and the others wait for it.
    Proxies come from the environment. A file URL is checked where it is, and not copied.

    Raises Corrupt when it has another digest, Refused when the server says no, NoSpace, Unavailable after
    some attempts, and what `control` says.
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
                from imageflow.fetch.transfer import Transfer  # requests takes a tenth of a second

                if (found := Transfer(url, wanted, part, control, log, progress).run()) != wanted:
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
    """The file with this digest (SHA-256, -384 or -512) that `download` writes, and checks; out of the cache, if it is there.

    As `fetch`, but what a crash left of it is written again. Where the cache can't take it (its disk is full, or not
    to be written to), it goes into the file `otherwise`. Raises what `download` raises, and NoSpace by OSError.
    """
    downloads = Downloads(config)
    if (path := downloads.find(digest)) is not None:
        log(f"{name}: in the cache")
        return path
    try:
        with downloads.part(digest, control, log) as part:
            if part is not None:
                try:
                    with open(part.descriptor, "r+b", closefd=False) as file:
                        download(file)
                    part.finish()
                except OSError:
                    part.drop()
                    raise
        return downloads.get(digest)
    except OSError as error:
        log(f"{name}: {downloads.folder} can't take it ({error.strerror or error})")
    with otherwise.open("wb") as file:
        download(file)
    return otherwise
