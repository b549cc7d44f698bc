"""What a watched file, folder or URL is right now: cheap signs that it changed, and what names its content."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imageflow import fetch
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import ImageflowError, Refused, Unavailable
from imageflow.pins import elements, files
from imageflow.recipe.problems import path_name

_MOST = 200_000  # entries of a folder that is watched
_TIMEOUT = (5.0, 10.0)  # seconds until a server is connected, and until it answers
_NO_HEAD = (400, 403, 405, 501)  # answers of servers that may only know GET
_PATIENCE = 45.0  # seconds for all of it, redirects too
_VALIDATORS = {"etag": "etag", "modified": "last-modified", "length": "content-length"}


def signs(path: Path) -> str:
    """What the kernel says about a file or all of a folder: other signs, maybe another content. Raises Refused."""
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return _sign(status)
        if not stat.S_ISDIR(status.st_mode):
            raise Refused(f"{path_name(path)} is neither a file nor a folder")
        return _of_folder(path)
    except FileNotFoundError:
        raise Refused(f"{path_name(path)} is not there") from None
    except (OSError, ValueError) as error:
        raise Refused(f"{path_name(path)} can't be read: {getattr(error, 'strerror', None) or error}") from None


def content(path: Path, config: Config, control: Control) -> str:
    """SHA-256 of a file, tree digest of a folder. Raises what says that it can't be read."""
    if path.is_dir():
        return elements.tree_digest(path)
    return fetch.local(path, config=config, control=control)


def url(address: str, patience: float = _PATIENCE) -> str:
    """What the server says about the content behind a URL, without sending it: JSON. Raises Refused, Unavailable.

    A server may send its answer letter by letter: no timeout of a socket ends that, so nobody waits for the thread.
    """
    answers: queue.SimpleQueue[tuple[int, dict[str, str]] | ImageflowError] = queue.SimpleQueue()
    name = fetch.shown(address)

    def ask() -> None:
        try:
            answers.put(_ask(address, name))
        except ImageflowError as error:
            answers.put(error)

    threading.Thread(target=ask, name="asking a server", daemon=True).start()
    try:
        answer = answers.get(timeout=patience)
    except queue.Empty:
        raise Unavailable(f"{name} does not come to an end with its answer") from None
    if isinstance(answer, ImageflowError):
        raise answer
    code, said = answer
    if code not in (200, 206):
        raise (Unavailable if code in (408, 425, 429) or code >= 500 else Refused)(f"{name} answered {code}")
    found = {key: said[header][:300] for key, header in _VALIDATORS.items() if said.get(header)}
    if code == 206:
        total = said.get("content-range", "").rpartition("/")[2]
        found |= {"length": total} if total.isdigit() else {}
    if not found:
        raise Refused(f"{name} says neither ETag nor Last-Modified nor Content-Length: its changes can't be seen")
    return json.dumps(found, sort_keys=True)


def _ask(address: str, name: str) -> tuple[int, dict[str, str]]:
    """-> the answer's code and headers, their names in lower case."""
    import requests

    headers = {"Accept-Encoding": "identity", "User-Agent": "imageflow"}
    try:
        with requests.head(address, headers=headers, timeout=_TIMEOUT, allow_redirects=True) as answer:
            found = answer
        if found.status_code in _NO_HEAD:
            headers["Range"] = "bytes=0-0"
            with requests.get(address, headers=headers, timeout=_TIMEOUT, stream=True) as answer:
                found = answer
    except (requests.ConnectionError, requests.Timeout) as error:
        raise Unavailable(f"{name} does not answer: {type(error).__name__}") from None
    except (requests.RequestException, ValueError) as error:
        raise Refused(f"{name} can't be asked: {type(error).__name__}") from None
    return found.status_code, {key.lower(): value for key, value in found.headers.items()}


def same(before: str, now: str) -> bool:
    """Whether it is the same content. Mirrors behind one URL may have ETags of their own for the same file."""
    if before == now:
        return True
    try:
        one, other = json.loads(before), json.loads(now)
    except ValueError:
        return False
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    if "etag" in one and one["etag"] == other.get("etag"):
        return True
    wanted = ("modified", "length")
    return all(key in one and one[key] == other.get(key) for key in wanted)


def last_build(pinned: Mapping[str, str], path: Path, folder: Path, now: str, pin: str | None) -> str | None:
    """What the last build of an image had for this input, as `content` says it; None: it does not say.

    `pin`: the name of the pin, where it is known. A folder whose pinned files are what they were is `now`.
    """
    if pin is not None:
        return pinned.get(pin)
    names = [os.path.relpath(path, folder), os.path.abspath(path)]
    if not path.is_dir():
        return next((pinned[f"file:{name}"] for name in names if f"file:{name}" in pinned), None)
    if element := pinned.get(f"element:{path.name}"):
        return element
    held = {
        name: digest
        for name, digest in pinned.items()
        if any(name.startswith(f"file:{each}/") for each in names) or (names[0] == "." and name.startswith("file:"))
    }
    if not held:
        return None
    if all(_digest(folder / name.removeprefix("file:")) == digest for name, digest in held.items()):
        return now
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str | None:
    try:
        return files.digest(path)
    except ImageflowError:
        return None


def _sign(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _of_folder(folder: Path) -> str:
    found, count = hashlib.sha256(), 0
    waiting: list[Any] = [str(folder)]
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:
            count += 1
            if count > _MOST:
                raise Refused(f"{path_name(folder)} has more than {_MOST} files", hint="watch a smaller folder")
            target = os.readlink(entry.path) if entry.is_symlink() else ""
            sign = _sign(entry.stat(follow_symlinks=False))
            found.update(os.fsencode(f"{entry.path}\0{sign}\0{target}\n"))
            if entry.is_symlink():
                try:
                    found.update(_sign(entry.stat()).encode())
                except OSError:
                    found.update(b"dangling")
            elif entry.is_dir(follow_symlinks=False) and entry.name != ".git":
                waiting.append(entry.path)
    return found.hexdigest()
