"""URLs: tells local files from remote ones, and shows URLs without their secrets."""

from __future__ import annotations

import urllib.parse
import urllib.request
from pathlib import Path

from imageflow.errors import Refused
from imageflow.recipe.problems import path_name

SCHEMES = ("http", "https", "file")


def shown(url: str) -> str:
    """The URL without user name, password and query."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return "the URL"
    return path_name(urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def file_of(url: str) -> Path | None:
    """The local file that a file URL names, None for http and https; raises Refused for anything else."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise Refused(f"{shown(url)} is not a usable URL", hint="correct the URL in the recipe") from None
    if parts.scheme not in SCHEMES or (not host and parts.scheme != "file"):
        raise Refused(f"{shown(url)} is not a usable URL", hint="one of: http://…, https://…, file:///…")
    if parts.scheme != "file":
        return None
    if host not in ("", "localhost"):
        raise Refused(f"{shown(url)} names a file on another machine", hint="write file:///PATH")
    return Path(urllib.request.url2pathname(parts.path))
