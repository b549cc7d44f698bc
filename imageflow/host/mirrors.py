"""The package mirrors and proxies that this host is configured with: apt, dnf, pip, the environment."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path

_URL = re.compile(r"\b(?:https?|ftp)://[^\s\"';,<>]+")
_PORTS = {"http": 80, "https": 443, "ftp": 21}
_FILES = (
    *("apt/sources.list", "apt/sources.list.d/*.list", "apt/sources.list.d/*.sources", "apt/apt.conf"),
    *("apt/apt.conf.d/*", "apt/mirrors/*", "yum.repos.d/*.repo", "dnf/dnf.conf", "yum.conf", "pip.conf", "environment"),
)
_PIP = ("~/.config/pip/pip.conf", "~/.pip/pip.conf")
_VARIABLES = re.compile(
    r"(https?|ftp|all)_proxy|pip_(extra_)?index_url|pip_proxy|uv_(default_|extra_)?index(_url)?", re.I
)


def places(etc: Path = Path("/etc"), environment: Mapping[str, str] | None = None) -> list[tuple[str, int]]:
    """Host and port of each, in the order found; unreadable files are skipped."""
    found: dict[tuple[str, int], None] = {}
    for text in (*_texts(etc), *_values(os.environ if environment is None else environment)):
        for url in _URL.findall(text):
            if place := _place(url):
                found[place] = None
    return list(found)


def _texts(etc: Path) -> Iterator[str]:
    files = [file for pattern in _FILES for file in sorted(etc.glob(pattern))]
    for file in (*files, *(Path(os.path.expanduser(name)) for name in _PIP)):
        try:
            lines = file.read_text("utf-8", "replace").splitlines() if file.is_file() else []
        except OSError:
            continue
        yield "\n".join(line for line in lines if not line.lstrip().startswith(("#", "//")))


def _values(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in environment.items():
        if _VARIABLES.fullmatch(name):
            # proxies are often written without a scheme
            yield from (value if "://" in value else f"http://{value}",)


def _place(url: str) -> tuple[str, int] | None:
    try:
        parts = urllib.parse.urlsplit(url)
        return (parts.hostname.lower(), parts.port or _PORTS[parts.scheme.lower()]) if parts.hostname else None
    except (ValueError, KeyError):
        return None
