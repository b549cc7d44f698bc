"""Small files behind URLs, or their digests: read as a stream, with retries and without showing credentials."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPException, InvalidURL
from typing import IO, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from imageflow.errors import ImageflowError, RecipeError, Refused, Unavailable
from imageflow.fetch import opening, shown
from imageflow.host.addresses import Policy

PROXIES = ("http_proxy", "https_proxy", "no_proxy")
_ATTEMPTS = 4
_SILENCE = 10.0  # seconds without a byte
_PATIENCE = 60.0  # seconds for one file
_MAX_BYTES = 16 << 20
_CHUNK = 1 << 16
T = TypeVar("T")


class _Absent(Exception):
    """The server says that there is no such file."""


def possible(uri: str) -> bool:
    """Whether `digest` can read such a URL."""
    return uri.partition(":")[0].lower() in ("http", "https", "file")


def digest(urls: Sequence[str], environment: Mapping[str, str], what: str, mark: bytes, permitted: Policy) -> str:
    """SHA-256 of the first of these files that exists; it must contain `mark`.

    Proxies come from `environment`, otherwise from this process's; `permitted`: where it may connect to. Raises Unavailable after several attempts,
    RecipeError when none of the files exists, Refused when the server refuses access.
    """
    for url in urls:
        try:
            return _patiently(url, environment, what, permitted, lambda stream, name: _digest(stream, name, mark))
        except _Absent:
            continue
    raise RecipeError(
        f"{what} is not in the archive {shown(urls[0].partition('/dists/')[0])}",
        hint="check the release and the mirror: DIB_RELEASE, DIB_DISTRIBUTION_MIRROR, DIB_DEBIAN_SECURITY_MIRROR",
    )


def whole(url: str, what: str, most: int, permitted: Policy) -> bytes:
    """A file of at most `most` bytes; `what`: its name in messages. Raises as `digest`."""
    try:
        return _patiently(url, {}, what, permitted, lambda stream, name: b"".join(_chunks(stream, name, most)))
    except _Absent:
        raise RecipeError(f"{what}: there is no {shown(url)}", hint="check the address") from None


def _patiently(
    url: str, environment: Mapping[str, str], what: str, permitted: Policy, take: Callable[[IO[bytes], str], T]
) -> T:
    """The result of `take` on the file; retries a few times while it is unavailable."""
    retrying = Retrying(
        retry=retry_if_exception_type(Unavailable),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(0.2, max=2),
        reraise=True,
    )
    found: T = retrying(_once, url, environment, what, permitted, take)
    return found


def _once(
    url: str, environment: Mapping[str, str], what: str, permitted: Policy, take: Callable[[IO[bytes], str], T]
) -> T:
    name = shown(url)
    try:
        with _file(url) if url.lower().startswith("file:") else _response(url, environment, permitted) as stream:
            return take(stream, name)
    except (ImageflowError, _Absent):
        raise
    except urllib.error.HTTPError as error:
        code = error.code
        error.close()
        if code in (404, 410):
            raise _Absent from None
        if code in (408, 425, 429) or code >= 500:
            raise Unavailable(f"{what}: {name} answered {code}", hint="try again later") from None
        raise Refused(f"{what}: {name} answered {code}", hint="check the address and its credentials") from None
    except (FileNotFoundError, NotADirectoryError):
        raise _Absent from None
    except (ValueError, InvalidURL):
        raise RecipeError(f"{what}: {name} is not a usable URL", hint="correct the URL") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        why = getattr(reason, "strerror", None) or str(reason)
        hint = "check the network, the proxy and the server"
        raise Unavailable(f"{what}: {name} can't be read: {why}", hint=hint) from None


def _digest(stream: IO[bytes], name: str, mark: bytes) -> str:
    seen, marked, found = b"", not mark, hashlib.sha256()
    for chunk in _chunks(stream, name, _MAX_BYTES):
        found.update(chunk)
        window = seen + chunk
        marked = marked or mark in window
        seen = window[-len(mark) :] if mark else b""
    if not marked:
        raise Refused(
            f"{name} is not a Release file", hint="something between here and the mirror answers in its place"
        )
    return found.hexdigest()


def _chunks(stream: IO[bytes], name: str, most: int) -> Iterator[bytes]:
    end = time.monotonic() + _PATIENCE
    total = 0
    while chunk := stream.read(_CHUNK):
        yield chunk
        total += len(chunk)
        if total > most:
            raise Refused(f"{name} is larger than {most >> 20} MiB", hint="check the address")
        if time.monotonic() > end:
            raise Unavailable(f"{name} comes too slowly", hint="check the network and the server")
    if getattr(stream, "length", None):  # http.client ignores a connection that ends too early
        raise Unavailable(f"{name} came only in part", hint="check the network and the server")


def _file(url: str) -> IO[bytes]:
    path = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # do not block on a FIFO
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _Absent
    return os.fdopen(descriptor, "rb")


def _response(url: str, environment: Mapping[str, str], permitted: Policy) -> IO[bytes]:
    parts = urllib.parse.urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    if not host:
        raise ValueError("no host")
    path = urllib.parse.quote(parts.path, safe="/%~+:@")
    address = urllib.parse.urlunsplit((parts.scheme, host, path, parts.query, ""))
    request = urllib.request.Request(address)  # noqa: S310 - `possible` has checked the scheme
    request.add_header("User-Agent", "imageflow")
    if credentials:
        plain = urllib.parse.unquote(credentials).encode()
        # unredirected: another host must not get it after a redirect
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(plain).decode()}")
    proxies = urllib.request.getproxies()
    for name in PROXIES:
        if value := environment.get(name):
            proxies[name.removesuffix("_proxy")] = value
    if urllib.request.proxy_bypass_environment(host, proxies):  # type: ignore[attr-defined]
        proxies = {}
    stream: IO[bytes] = opening.opener(proxies, permitted).open(request, timeout=_SILENCE)
    return stream
