"""The archives that this host's apt is configured with, in both of apt's formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>[^#]*)")


@dataclass(frozen=True, slots=True)
class AptSource:
    """An archive of binary packages."""

    uri: str  # without a trailing slash
    suites: tuple[str, ...]
    components: tuple[str, ...]
    keyring: str = ""  # path of the keyring it must be signed by


def read(apt: Path) -> list[AptSource]:
    """All enabled sources below /etc/apt, in apt's order; unreadable or invalid ones are skipped."""
    found = list(one_line(lines(apt / "sources.list")))
    folder = apt / "sources.list.d"
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix == ".list":
            found += one_line(lines(file))
        elif file.suffix == ".sources":
            found += deb822("\n".join(lines(file)))
    return [resolved for source in found if (resolved := _resolve(source))]


def lines(file: Path) -> list[str]:
    """A small text file's lines; [] when it can't be read."""
    try:
        if not file.is_file():
            return []
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []


def one_line(text: Iterable[str]) -> Iterator[AptSource]:
    """`deb [signed-by=… arch=…] URI SUITE COMPONENT…`."""
    for line in text:
        found = _ONE_LINE.match(line.strip())
        if found and not found["suite"].endswith("/"):
            options = dict(part.partition("=")[::2] for part in (found["options"] or "").split())
            yield AptSource(
                found["uri"].rstrip("/"),
                (found["suite"],),
                tuple(found["components"].split()),
                options.get("signed-by", ""),
            )


def deb822(text: str) -> Iterator[AptSource]:
    """Stanzas with Types, URIs, Suites, Components, Signed-By, Enabled."""
    from debian.deb822 import Deb822

    for stanza in Deb822.iter_paragraphs(text.splitlines(keepends=True), use_apt_pkg=False):
        if "deb" not in stanza.get("Types", "").split() or stanza.get("Enabled", "yes").strip().lower() in (
            "no",
            "false",
            "0",
        ):
            continue
        suites = tuple(name for name in stanza.get("Suites", "").split() if not name.endswith("/"))
        components = tuple(stanza.get("Components", "").split())
        for uri in stanza.get("URIs", "").split() if suites else ():
            yield AptSource(uri.rstrip("/"), suites, components, stanza.get("Signed-By", "").strip().split("\n")[0])


def distribution(etc: Path) -> str:
    """ID of os-release: debian, ubuntu, …"""
    return _os_release(etc, "ID")


def codename(etc: Path) -> str:
    """VERSION_CODENAME of os-release: bookworm, noble, …"""
    return _os_release(etc, "VERSION_CODENAME")


def _os_release(etc: Path, key: str) -> str:
    for line in lines(etc / "os-release"):
        name, _, value = line.partition("=")
        if name.strip() == key:
            return value.strip().strip("\"'")
    return ""


def _resolve(source: AptSource) -> AptSource | None:
    """A `mirror+file:` source as the first mirror of its list, since only apt understands the scheme."""
    if not source.uri.startswith("mirror"):
        return source
    scheme, _, path = source.uri.partition(":")
    if scheme not in ("mirror+file", "mirror"):
        return None
    uris = (
        line.split()[0] for line in lines(Path("/" + path.lstrip("/"))) if line.strip() and not line.startswith("#")
    )
    first = next(uris, None)
    return AptSource(first.rstrip("/"), source.suites, source.components, source.keyring) if first else None
