"""One download over HTTP: goes on where it broke off, hashes what comes, and gives up when nothing more comes."""

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
from typing import Any

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from imageflow.control import Control
from imageflow.errors import ImageflowError, NoSpace, Refused, Unavailable
from imageflow.fetch.address import shown
from imageflow.fetch.downloads import Part
from imageflow.fetch.hashing import CHUNK, hashed

_ATTEMPTS = 6  # in a row in which not one new byte came
_FIRST_PAUSE = 0.5  # seconds, doubled each time
_LONGEST_PAUSE = 30.0  # seconds
_CONNECT = 10.0  # seconds
_SILENCE = 20.0  # seconds without a byte
_REDIRECTS = 10
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_TRANSIENT = frozenset({408, 425, 429})
_GIB = 1 << 30


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
    ) -> None:
        self._url = url
        self._name = shown(url)
        self._wanted = sha256
        self._part = part
        self._control = control
        self._log = log
        self._progress = progress
        self._size = os.fstat(part.descriptor).st_size
        self._hash = hashlib.sha256()
        self._resumed = self._size > 0  # some of it came with an earlier answer than the last
        self._farthest = self._size
        self._fruitless = 0
        self._pause = 0.0  # what the server asks for

    def run(self) -> str:
        """Download what is missing; -> the SHA-256 of all of it."""
        if self._size:
            self._log(f"{self._name}: {self._size} bytes are there from an earlier attempt")
            self._hash = hashed(self._part.descriptor, self._control, lambda done: self._progress(0.0, "check"))
        while True:
            if self._found != self._wanted:
                self._attempts()
            if self._found == self._wanted or not self._resumed:
                return self._found
            self._log(f"{self._name}: the parts do not fit together; from the beginning")
            self._restart()

    @property
    def _found(self) -> str:
        return self._hash.hexdigest()

    def _attempts(self) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unavailable),
            stop=lambda _: self._fruitless >= _ATTEMPTS,
            wait=lambda _: max(min(_FIRST_PAUSE * 2 ** max(self._fruitless - 1, 0), _LONGEST_PAUSE), self._pause),
            sleep=self._control.wait,
            before_sleep=lambda state: self._log(f"{state.outcome and state.outcome.exception()}; trying again"),
            reraise=True,
        )
        # urllib3 logs every path with its query, which may be a signature
        logging.getLogger("urllib3").setLevel(logging.INFO)
        with _session() as session:
            retrying(self._attempt, session)

    def _attempt(self, session: requests.Session) -> None:
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
        """A server that can't go on where it broke off brings the same bytes again and again: that is no progress."""
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
        except ValueError as error:  # not all of them are requests': a Location that is no URL
            raise _trouble(error, self._name) from None
        with contextlib.closing(response), _stopped_by(self._control, response):
            yield response

    def _take(self, response: requests.Response) -> None:
        total = self._begin(response)
        if total is not None:
            self._check_space(total - self._size)
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
        """Make the part fit the answer; -> bytes of the whole file, None when nobody knows."""
        code = response.status_code
        if code == 206 and self._size:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            if match and int(match[1]) == self._size:
                self._resumed = True
                return None if match[3] == "*" else int(match[3])
        if code in (206, 416):  # not what we asked for, or nothing is left after what we have: next time all of it
            self._restart()
            raise Unavailable(f"{self._name}: the server has another file, or mixes up its parts", hint="try again")
        if code != 200:
            raise self._refusal(response)
        if self._size:
            self._log(f"{self._name}: the server begins again, or the file has changed")
            self._restart()
        self._part.origin = {"url": _digest(self._url), "validator": _validator(response)}
        return _length(response)

    def _restart(self) -> None:
        os.ftruncate(self._part.descriptor, 0)
        self._size = 0
        self._hash = hashlib.sha256()
        self._resumed = False

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self._part.descriptor, view, self._size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise self._no_space(f"{self._size} bytes are there, and kept") from error
                raise Refused(f"{self._part.path} can't be written: {error.strerror}", hint="check the disk") from error
            self._hash.update(view[:written])
            self._size += written
            view = view[written:]

    def _check_space(self, need: int) -> None:
        room = os.fstatvfs(self._part.descriptor)
        free = room.f_bavail * room.f_frsize
        if need > free:
            raise self._no_space(f"{need / _GIB:.2f} GiB are to come, {free / _GIB:.2f} GiB are free")

    def _no_space(self, why: str) -> NoSpace:
        folder = self._part.path.parent
        return NoSpace(
            f"no space left in {folder} for {self._name}: {why}", hint="free some space, then resume the build"
        )

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


class _SystemTrust(HTTPAdapter):
    """Trusts the certificates that this machine trusts, besides those that come with requests."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **kwargs)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(*args, ssl_context=ssl.create_default_context(), **kwargs)


def _session() -> requests.Session:
    session = requests.Session()
    session.max_redirects = _REDIRECTS
    session.mount("https://", _SystemTrust())
    return session


@contextlib.contextmanager
def _stopped_by(control: Control, response: requests.Response) -> Iterator[None]:
    """End the connection when the build is to stop: a read waits for its server, not for us."""
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
    """Names a URL in a file without showing what is secret in it."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()


def _validator(response: requests.Response) -> str:
    """What If-Range may say of this answer: a strong ETag, or a date; '' when there is none."""
    tag: str = response.headers.get("ETag", "").strip()
    return tag if tag.startswith('"') else "" if tag else response.headers.get("Last-Modified", "")


def _length(response: requests.Response) -> int | None:
    value = response.headers.get("Content-Length", "")
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    return int(value) if value.isdecimal() and not chunked else None


def _amount(total: int | None) -> str:
    return "of unknown size" if total is None else f"{total} bytes"


def _asked_pause(response: requests.Response) -> float:
    """Seconds from Retry-After, as far as we are patient."""
    value = response.headers.get("Retry-After", "").strip()
    seconds = 0.0
    if value.isdecimal():
        seconds = float(value[:9])
    elif value:
        with contextlib.suppress(ValueError):
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
    return min(max(seconds, 0.0), _LONGEST_PAUSE)


def _trouble(error: Exception, name: str) -> ImageflowError:
    """What went wrong on the way, without the URL that requests puts into its messages."""
    reason = _reason(error)
    if isinstance(error, requests.TooManyRedirects):
        return Refused(f"{name}: the server sends us in circles", hint="check the URL in the recipe")
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Refused(
            f"{name}: the server's certificate is not trusted: {reason}",
            hint="install its authority's certificate on this machine, or name it in REQUESTS_CA_BUNDLE",
        )
    if isinstance(error, requests.exceptions.InvalidProxyURL):
        return Refused(f"{name}: the proxy's URL is not usable", hint="check http_proxy and https_proxy")
    if isinstance(error, requests.exceptions.ProxyError):
        return Unavailable(f"{name}: the proxy can't be used: {reason}", hint="check http_proxy and https_proxy")
    if isinstance(error, ValueError):  # requests' errors of URLs are; of the recipe's one, or of a redirect's
        return Refused(f"{name}: it, or where it leads to, is not a usable URL", hint="check the URL in the recipe")
    return Unavailable(f"{name} can't be read: {reason}", hint="check the network and the proxy")


def _reason(error: BaseException) -> str:
    """The kernel's or the library's own words for the innermost cause."""
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
