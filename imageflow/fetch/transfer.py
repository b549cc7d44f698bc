"""One download over HTTP: resumes after interruptions, hashes the data, and gives up without progress."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime

import requests
import tenacity
import urllib3

from imageflow.background.backoff import Backoff
from imageflow.errors import ImageflowError, Refused, Unavailable
from imageflow.fetch import reach
from imageflow.fetch.address import shown
from imageflow.fetch.downloads import Part
from imageflow.fetch.hashing import CHUNK, hashed
from imageflow.fetch.room import Room
from imageflow.host.addresses import Policy
from imageflow.host.control import Control

_ATTEMPTS = 6  # attempts in a row without a new byte
_FIRST_PAUSE = 0.5  # seconds until the next attempt, after the first failure
_LONGEST_PAUSE = 30.0  # seconds; also the limit for a server's Retry-After
_CONNECT = 10.0  # seconds
_SILENCE = 20.0  # seconds without a byte
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TRANSIENT = frozenset({408, 425, 429})


class Transfer:
    """Fills a part from a URL."""

    def __init__(
        self,
        url: str,
        sha256: str,
        part: Part,
        control: Control,
        log: Callable[[str], None],
        progress: Callable[[float, str], None],
        permitted: Policy,
        room: Room,
    ) -> None:
        self._room = room
        self._url = url
        self._name = shown(url)
        self._wanted = sha256
        self._part = part
        self._control = control
        self._log = log
        self._progress = progress
        self._permitted = permitted
        self._size = os.fstat(part.descriptor).st_size
        self._hash = hashlib.sha256()
        self._resumed = self._size > 0  # whether some of it came with an earlier response
        self._farthest = self._size
        self._fruitless = 0
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._pause = 0.0  # the server's Retry-After

    def run(self) -> str:
        """Download the missing bytes; -> the SHA-256 of the whole file."""
        if self._size:
            self._log(f"{self._name}: {self._size} bytes are there from an earlier attempt")
            self._hash = hashed(self._part.descriptor, self._control, lambda done: self._progress(0.0, "check"))
        while True:
            if self._found != self._wanted:
                self._attempts()
            if self._found == self._wanted or not self._resumed:
                return self._found
            self._log(f"{self._name}: the parts do not fit together; starting over")
            self._restart()

    @property
    def _found(self) -> str:
        return self._hash.hexdigest()

    def _attempts(self) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unavailable),
            stop=lambda _: self._fruitless >= _ATTEMPTS,
            wait=lambda _: max(self._backoff.after(self._fruitless), self._pause),
            sleep=self._control.wait,
            before_sleep=lambda state: self._log(f"{state.outcome and state.outcome.exception()}; trying again"),
            reraise=True,
        )
        # urllib3 logs every path with its query, which may contain a signature
        logging.getLogger("urllib3").setLevel(logging.INFO)
        with reach.session(self._permitted) as session:
            retrying(self._attempt, session)

    def _attempt(self, session: requests.Session) -> None:
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._pause = 0.0
        try:
            with self._answer(session) as response:
                self._take(response)
        except (OSError, urllib3.exceptions.HTTPError) as error:  # every exception of requests is an OSError
            self._control.check()  # a cancel ends the connection, too
            self._count()
            raise _trouble(error, self._name) from None
        except Unavailable:
            self._count()
            raise

    def _count(self) -> None:
        """Count attempts without progress: a server that can't resume sends the same bytes again, which is none."""
        self._fruitless = 0 if self._size > self._farthest else self._fruitless + 1
        self._farthest = max(self._farthest, self._size)

    @contextlib.contextmanager
    def _answer(self, session: requests.Session) -> Iterator[requests.Response]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "imageflow"}
        if self._size:
            headers["Range"] = f"bytes={self._size}-"
            origin = self._part.origin
            if origin.get("url") == _digest(self._url) and origin.get("validator"):
                headers["If-Range"] = origin["validator"]
        try:
            response = session.get(self._url, headers=headers, stream=True, timeout=(_CONNECT, _SILENCE))
        except Refused as error:
            raise Refused(f"{self._name}: {error.message}", hint=error.hint) from None
        except ValueError as error:  # not only from requests: a Location that is not a URL
            raise _trouble(error, self._name) from None
        with contextlib.closing(response), _stopped_by(self._control, response):
            yield response

    def _take(self, response: requests.Response) -> None:
        total = self._begin(response)
        if total is not None:
            self._room.expect(total, self._size)
        self._log(f"{self._name}: {_amount(total)}, from byte {self._size}")
        began, first, coming = time.monotonic(), self._size, _length(response)
        while data := response.raw.read1(CHUNK, decode_content=False):
            self._control.check()
            self._write(data)
            self._progress(self._size / total if total else 0.0, "download")
        self._control.check()
        if coming is not None and self._size - first < coming:
            raise Unavailable(f"{self._name} came only in part", hint="check the network")
        seconds = max(time.monotonic() - began, 1e-3)
        rate = (self._size - first) / seconds / (1 << 20)
        self._log(f"{self._name}: {self._size - first} bytes in {seconds:.1f} s, {rate:.1f} MiB/s")

    def _begin(self, response: requests.Response) -> int | None:
        """Adapt the part to the response; -> size of the whole file in bytes, None if unknown."""
        code = response.status_code
        if code == 206 and self._size:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if match and int(match[1]) == self._size:
                self._resumed = True
                return None if match[3] == "*" else int(match[3])
        if code in (206, 416):  # an unexpected range, or nothing after our part: request the whole file next time
            self._restart()
            raise Unavailable(f"{self._name}: the server has a different file, or mixes up its parts", hint="try again")
        if code != 200:
            raise self._refusal(response)
        if self._size:
            self._log(f"{self._name}: the server starts over, or the file has changed")
            self._restart()
        self._part.origin = {"url": _digest(self._url), "validator": _validator(response)}
        return _length(response)

    def _restart(self) -> None:
        os.ftruncate(self._part.descriptor, 0)
        self._size = 0
        self._hash = hashlib.sha256()
        self._resumed = False

    def _write(self, data: bytes) -> None:
        self._room.grow(self._size + len(data), len(data))
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self._part.descriptor, view, self._size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise self._room.none_left(f"{self._size} bytes are there, and kept") from error
                raise Refused(f"{self._part.path} can't be written: {error.strerror}", hint="check the disk") from error
            self._hash.update(view[:written])
            self._size += written
            view = view[written:]

    def _refusal(self, response: requests.Response) -> ImageflowError:
        code = response.status_code
        if code in _TRANSIENT or code >= 500:
            self._pause = _asked_pause(response)
            return Unavailable(f"{self._name}: the server answered {code}", hint="try again later")
        hints = {
            401: "the server wants credentials",
            403: "the server does not let us: check the credentials in the URL, or whether it has expired",
            404: "check the URL: there is no such file",
            407: "the proxy wants credentials: see http_proxy and https_proxy in the environment",
            410: "check the URL: the file was removed",
        }
        return Refused(f"{self._name}: the server answered {code}", hint=hints.get(code, "check the URL in the recipe"))


@contextlib.contextmanager
def _stopped_by(control: Control, response: requests.Response) -> Iterator[None]:
    """Close the connection when the build is to stop: a blocked read would not notice."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.25):
            try:
                control.check()
            except ImageflowError:
                with contextlib.suppress(ValueError, RuntimeError, OSError):
                    response.raw.shutdown()
                return

    watcher = threading.Thread(target=watch, name="download watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _digest(url: str) -> str:
    """Identifies a URL without showing its secrets."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()


def _validator(response: requests.Response) -> str:
    """The If-Range value for this response: a strong ETag, or a date; '' when there is none."""
    tag: str = response.headers.get("ETag", "").strip()
    return tag if tag.startswith('"') else "" if tag else response.headers.get("Last-Modified", "")


def _length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return int(value) if value.isdecimal() and not chunked else None


def _amount(total: int | None) -> str:
    return "of unknown size" if total is None else f"{total} bytes"


def _asked_pause(response: requests.Response) -> float:
    """Seconds from Retry-After, limited."""
    value = response.headers.get("Retry-After", "").strip()
    seconds = 0.0
    if value.isdecimal():
        seconds = float(value[:9])
    elif value:
        with contextlib.suppress(ValueError):
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
    return min(max(seconds, 0.0), _LONGEST_PAUSE)


def _trouble(error: Exception, name: str) -> ImageflowError:
    """Our error for a failed transfer, without the URL that requests puts into its messages."""
    reason = _reason(error)
    if isinstance(error, requests.TooManyRedirects):
        return Refused(f"{name}: the server redirects in a loop", hint="check the URL in the recipe")
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Refused(
            f"{name}: the server's certificate is not trusted: {reason}",
            hint="install its authority's certificate on this machine, or name it in REQUESTS_CA_BUNDLE",
        )
    if isinstance(error, requests.exceptions.InvalidProxyURL):
        return Refused(f"{name}: the proxy's URL is not usable", hint="check http_proxy and https_proxy")
    if isinstance(error, requests.exceptions.ProxyError):
        return Unavailable(f"{name}: the proxy can't be used: {reason}", hint="check http_proxy and https_proxy")
    if isinstance(error, ValueError):  # requests' errors about URLs: the recipe's or a redirect's
        return Refused(f"{name}: it, or its redirect, is not a usable URL", hint="check the URL in the recipe")
    return Unavailable(f"{name} can't be read: {reason}", hint="check the network and the proxy")


def _reason(error: BaseException) -> str:
    """The kernel's or the library's own message for the innermost cause."""
    seen: list[BaseException] = []
    queue: list[BaseException] = [error]
    while queue:
        one = queue.pop(0)
        if one in seen:
            continue
        seen.append(one)
        inner = [getattr(one, "reason", None), one.__cause__, one.__context__, *one.args]
        queue += [cause for cause in inner if isinstance(cause, BaseException)]
    for one in reversed(seen):
        if isinstance(one, ssl.SSLCertVerificationError):
            return one.verify_message
        if isinstance(one, OSError) and one.strerror:
            return one.strerror
    if any(isinstance(one, (TimeoutError, requests.Timeout)) for one in seen):
        return "no answer in time"
    return "the connection broke off"
