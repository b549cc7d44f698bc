"""The current state of a watched file, folder or URL: cheap signs of a change, and what identifies its content."""

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
from imageflow.errors import ImageflowError, Refused, Unavailable
from imageflow.host.addresses import Policy
from imageflow.host.control import Control
from imageflow.inputs import elements, files
from imageflow.inputs.pins import Kind, Pins, pin_name
from imageflow.recipe.problems import path_name

_MOST = 200_000  # entries of a folder that is watched
_TIMEOUT = (5.0, 10.0)  # seconds to connect to a server, and to get its answer
_NO_HEAD = (400, 403, 405, 501)  # answers of servers that may only know GET
_PATIENCE = 45.0  # seconds for the whole request, with redirects
_VALIDATORS = {"etag": "etag", "modified": "last-modified", "length": "content-length"}


def signs(path: Path) -> str:
    """The kernel's metadata of a file or a whole folder: if it differs, the content may differ. Raises Refused."""
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
    """SHA-256 of a file, tree digest of a folder. Raises the error that makes it unreadable."""
    if path.is_dir():
        return elements.tree_digest(path)
    return fetch.local(path, config=config, control=control)


def url(address: str, permitted: Policy, patience: float = _PATIENCE) -> str:
    """What the server says about the content of a URL, without sending it: JSON. Raises Refused, Unavailable.

    `permitted`: where it may connect to.

    A server may send its answer byte by byte: no socket timeout ends that, so the thread is not waited for.
    """
    answers: queue.SimpleQueue[tuple[int, dict[str, str]] | ImageflowError] = queue.SimpleQueue()
    name = fetch.shown(address)

    def ask() -> None:
        try:
            answers.put(_ask(address, name, permitted))
        except ImageflowError as error:
            answers.put(error)

    threading.Thread(target=ask, name="asking a server", daemon=True).start()
    try:
        answer = answers.get(timeout=patience)
    except queue.Empty:
        raise Unavailable(f"{name} does not finish its answer") from None
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
        raise Refused(f"{name} sends neither ETag nor Last-Modified nor Content-Length: its changes can't be seen")
    return json.dumps(found, sort_keys=True)


def _ask(address: str, name: str, permitted: Policy) -> tuple[int, dict[str, str]]:
    """-> the answer's code and headers, their names in lower case."""
    import requests

    from imageflow.fetch import reach

    headers = {"Accept-Encoding": "identity", "User-Agent": "imageflow"}
    try:
        with reach.session(permitted) as session:
            with session.head(address, headers=headers, timeout=_TIMEOUT, allow_redirects=True) as answer:
                found = answer
            if found.status_code in _NO_HEAD:
                headers["Range"] = "bytes=0-0"
                with session.get(address, headers=headers, timeout=_TIMEOUT, stream=True) as answer:
                    found = answer
    except (requests.ConnectionError, requests.Timeout) as error:
        raise Unavailable(f"{name} does not answer: {type(error).__name__}") from None
    except (requests.RequestException, ValueError) as error:
        raise Refused(f"{name} can't be asked: {type(error).__name__}") from None
    return found.status_code, {key.lower(): value for key, value in found.headers.items()}


def same(before: str, now: str) -> bool:
    """Whether it is the same content. Mirrors behind one URL may have different ETags for the same file."""
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
    """What the last build of an image used for this input, in the form of `content`; None: unknown.

    `pin`: the name of the pin, if known. A folder whose pinned files are unchanged is `now`.
    """
    if pin is not None:
        return pinned.get(pin)
    names = [os.path.relpath(path, folder), os.path.abspath(path)]
    pins = Pins(pinned)
    if not path.is_dir():
        return next(filter(None, map(pins.file, names)), None)
    if element := pins.of(Kind.ELEMENT).get(path.name):
        return element
    held = pins.of(Kind.FILE) if names[0] == "." else {}
    for each in names:
        held |= pins.files_below(each)
    if not held:
        return None
    if all(_digest(folder / name) == digest for name, digest in held.items()):
        return now
    held = {pin_name(Kind.FILE, file): digest for file, digest in held.items()}
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
