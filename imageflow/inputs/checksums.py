"""Looks up the SHA-256 of a file that is sometimes replaced upstream in the published checksums."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from imageflow.errors import NotText, RecipeError, Refused
from imageflow.fetch import shown
from imageflow.host import text
from imageflow.host.addresses import Policy
from imageflow.inputs import download
from imageflow.recipe.inputs import is_url
from imageflow.recipe.problems import path_name, short

_MOST = 4 << 20  # bytes; the list of a whole distribution's releases is far smaller
_GNU = re.compile(r"\\?([0-9A-Fa-f]{32,128})[ \t]+\*?(\S.*)")  # sha256sum: HEX  NAME, HEX *NAME
_BSD = re.compile(r"([A-Za-z0-9-]{2,20}) ?\((.+)\) ?= ?([0-9A-Fa-f]{32,128})")  # SHA256 (NAME) = HEX
_BARE = re.compile(r"[0-9A-Fa-f]{64}")
_LENGTHS = {32: "MD5", 40: "SHA-1", 56: "SHA-224", 96: "SHA-384", 128: "SHA-512"}  # digits of unusable digests


def look_up(url: str, checksums: str, folder: Path, permitted: Policy) -> str:
    """The current SHA-256 of the file behind `url`, 64 hex digits; `checksums`: a URL, or a path relative to `folder`;
    `permitted`: where it may connect to.

    Raises Unavailable when the server does not answer, RecipeError when the list is missing or has no line
    for `url`, Refused when it is not a list of checksums.
    """
    if is_url(checksums):
        name = shown(checksums)
        data = download.whole(checksums, "the checksums", _MOST, permitted)
    else:
        path = folder / checksums
        name = path_name(path)
        data = download.whole(path.absolute().as_uri(), "the checksums", _MOST, permitted)
    return find(data, url, name)


def find(data: bytes, url: str, name: str) -> str:
    """The SHA-256 in a list of checksums for the last part of the URL's path; `name` is the list's, for errors.

    A line that matches more of the path is preferred. Raises as `look_up`.
    """
    try:
        listed = text.read(data).text
    except NotText:
        listed = data.decode("utf-8", "replace")  # a comment in another encoding
    wanted = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    last = wanted.rpartition("/")[2]
    lines = [line for line in listed.splitlines() if line.strip()]
    if len(lines) == 1 and _BARE.fullmatch(lines[0].strip()):
        return lines[0].strip().lower()
    found: dict[int, set[str]] = {}  # length of the name -> digests
    others: set[str] = set()
    for kind, digest, of in _entries(lines):
        path = f"/{of.removeprefix('./').lstrip('/')}"
        if f"/{wanted}".endswith(path):
            if kind == "SHA-256":
                found.setdefault(len(path), set()).add(digest)
            else:
                others.add(kind)
    if not found and others:
        raise RecipeError(
            f"{name} has {' and '.join(sorted(others))} of {short(last)}", hint="name the one with SHA-256"
        )
    if not found:
        known = any(True for _ in _entries(lines))
        hint = "check that it belongs to the url" if known else "it is not a list of checksums"
        raise RecipeError(f"{name} has no SHA-256 of {short(last)}", hint=hint)
    best = found[max(found)]
    if len(best) > 1:
        raise Refused(
            f"{name} has {len(best)} different SHA-256 of {short(last)}", hint="name another one, or use 'sha256:'"
        )
    return next(iter(best))


def _entries(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """(kind, digest, name) of each checksum line, in any of the usual forms; surrounding signatures are skipped."""
    for line in lines:
        if len(line) > 4096:
            continue
        if match := _BSD.fullmatch(line.strip()):
            kind = match[1].upper().replace("SHA", "SHA-").replace("--", "-")
            yield ("SHA-256" if kind == "SHA-256" and len(match[3]) == 64 else kind), match[3].lower(), match[2]
        elif match := _GNU.fullmatch(line.strip()):
            kind = "SHA-256" if len(match[1]) == 64 else _LENGTHS.get(len(match[1]), "checksums")
            yield kind, match[1].lower(), match[2]
