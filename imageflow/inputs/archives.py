"""Package archives: the mirrors of a build, and the digest of each suite's signed Release file.

Only `mirrors` chooses mirrors: pins are taken from its result, and the build gets the same in its environment.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from imageflow.host.addresses import Policy
from imageflow.inputs import aptsources, download, pins
from imageflow.inputs.aptsources import AptSource
from imageflow.inputs.elements import stock_folder
from imageflow.inputs.pins import Kind

VARIABLES = (  # variables of a definition's environment that are read here
    "DIB_DEBIAN_DISTRIBUTION_MIRROR",
    "DIB_DISTRIBUTION_MIRROR",
    "DIB_DEBIAN_SECURITY_MIRROR",
    "DIB_APT_SOURCES_CONF",
    "DIB_CLOUD_IMAGES",
    *download.PROXIES,
)
_FAMILIES = {  # element that implies a distribution -> the distribution
    "debian-minimal": "debian",
    "ubuntu-minimal": "ubuntu",
    "ubuntu-common": "ubuntu",
    "ubuntu-systemd-container": "ubuntu",
}
_PORTS = ("arm64", "armhf", "powerpc", "ppc64el", "s390x")  # Ubuntu keeps them elsewhere


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The mirrors of a build; '' keeps diskimage-builder's default."""

    family: str  # debian, ubuntu, or '' for all others
    distribution: str = ""
    security: str = ""  # Debian has a separate security archive

    def environment(self) -> dict[str, str]:
        """The variables that pass them to diskimage-builder."""
        found = {"DIB_DISTRIBUTION_MIRROR": self.distribution}
        if self.family == "debian":
            found["DIB_DEBIAN_SECURITY_MIRROR"] = self.security
        return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite of an archive, or another file that represents an archive's state."""

    uri: str
    name: str
    file: str = ""  # of the archive, instead of the suite's Release file


def family(elements: Collection[str]) -> str:
    """debian, ubuntu, or '' when these elements build something else."""
    return next((kind for element, kind in _FAMILIES.items() if element in elements), "")


def mirrors(environment: Mapping[str, str], family: str, etc: Path = Path("/etc")) -> Mirrors:
    """The mirrors for an image of this family: its definition's, otherwise those of this host's apt.

    The host's are used only if it is of the same family. `etc`: the host's /etc.
    """
    if not family:
        return Mirrors("")
    hosts = Mirrors(family)
    if aptsources.distribution(etc) == family:
        hosts = _of_host(family, aptsources.read(etc / "apt"), aptsources.codename(etc))
    distribution = environment.get("DIB_DISTRIBUTION_MIRROR") or hosts.distribution
    if family == "debian":
        distribution = environment.get("DIB_DEBIAN_DISTRIBUTION_MIRROR") or distribution
    return Mirrors(family, distribution, environment.get("DIB_DEBIAN_SECURITY_MIRROR") or hosts.security)


def suites(
    environment: Mapping[str, str], elements: Collection[str], architecture: str, etc: Path = Path("/etc")
) -> dict[str, Suite]:
    """Every suite that the build will read, by the name of its pin; {} if unknown."""
    kind = family(elements)
    if not kind:
        return {}
    chosen = mirrors(environment, kind, etc)
    found = list(_debian(chosen, environment) if kind == "debian" else _ubuntu(chosen, environment, architecture))
    sources = [line.partition(":")[2] for line in environment.get("DIB_APT_SOURCES_CONF", "").splitlines()]
    if sources and kind == "debian":
        found = found[:1]  # it replaces the definition's sources after the first installation
    if "apt-sources" in elements and (file := environment.get("DIB_APT_SOURCES")):
        sources += aptsources.lines(Path(file))
    found += [Suite(one.uri, name) for one in aptsources.one_line(sources) for name in one.suites]
    if "ubuntu" in elements and not environment.get("DIB_LOCAL_IMAGE") and (images := _cloud_images(environment)):
        found.append(images)
    named: dict[str, Suite] = {}
    for suite in dict.fromkeys(replace(suite, uri=suite.uri.rstrip("/")) for suite in found if suite.uri):
        name, more = pins.pin_name(Kind.ARCHIVE, suite.name), 2
        while name in named:
            name, more = pins.pin_name(Kind.ARCHIVE, f"{suite.name}#{more}"), more + 1
        named[name] = suite
    return named


def unpinned(elements: Collection[str]) -> str:
    """Why there is no archive to pin."""
    if not family(elements):
        return "only the archives of Debian and Ubuntu can be pinned"
    return "no mirror is known"


def digest(suite: Suite, environment: Mapping[str, str], permitted: Policy) -> str:
    """SHA-256 of the suite's signed Release file, or 'unpinned: why' for a mirror that can't be read.

    Raises Unavailable when the archive does not answer, RecipeError when it has no such suite.
    """
    if not download.possible(suite.uri):
        return f"unpinned: a {suite.uri.partition(':')[0]} mirror can't be read"
    fetch = partial(download.digest, environment=environment, permitted=permitted)
    if suite.file:
        return fetch([f"{suite.uri}/{suite.file}"], what=f"{suite.file} of {suite.name}", mark=b"")
    folder = f"{suite.uri}/dists/{suite.name}"
    return fetch([f"{folder}/InRelease", f"{folder}/Release"], what=f"suite {suite.name}", mark=b"\nDate:")


def _of_host(family: str, sources: list[AptSource], codename: str) -> Mirrors:
    def fit(source: AptSource) -> int:
        path = source.uri.split("://")[-1].rstrip("/").split("/", 1)[-1]
        likely = source.keyring.endswith(f"{family}-archive-keyring.gpg") + (path.split("/")[0] == family)
        return 2 * likely + any(name == f"{codename}-updates" for name in source.suites)

    main = [source for source in sources if codename in source.suites and "main" in source.components]
    best = max(main, key=fit, default=None)  # the first of equals
    secure = [
        source
        for source in sources
        if any(name in (f"{codename}-security", f"{codename}/updates") for name in source.suites)
        and "main" in source.components
    ]
    return Mirrors(family, best.uri if best else "", secure[0].uri if secure else "")


def _debian(chosen: Mirrors, environment: Mapping[str, str]) -> list[Suite]:
    script = stock_folder() / "debian-minimal/environment.d/10-debian-minimal.bash"
    release = environment.get("DIB_RELEASE") or _default(script, "DIB_RELEASE")
    uri = chosen.distribution or _default(script, "DIB_DISTRIBUTION_MIRROR")
    if release in ("testing", "unstable"):
        return [Suite(uri, release)]
    security = chosen.security or _default(script, "DIB_DEBIAN_SECURITY_MIRROR")
    path = f"{release}-security{environment.get('DIB_DEBIAN_SECURITY_SUBPATH', '')}"
    return [Suite(uri, release), Suite(uri, f"{release}-updates"), Suite(security, path)]


def _ubuntu(chosen: Mirrors, environment: Mapping[str, str], architecture: str) -> list[Suite]:
    elements = stock_folder()
    scripts = sorted((elements / "ubuntu-common/environment.d").iterdir())
    text = "\n".join(script.read_text() for script in scripts)
    release = environment.get("DIB_RELEASE") or _default(text, "DIB_RELEASE")
    uri = chosen.distribution
    if not uri and (defaults := re.findall(r"default_ubuntu_mirror=(\S+)", text)):
        uri = defaults[0] if architecture in _PORTS else defaults[-1]
    more = environment.get("DIB_UBUNTU_MIRROR_DISTS") or "updates,security,backports"
    return [Suite(uri, release), *(Suite(uri, f"{release}-{name}") for name in more.replace(",", " ").split())]


def _cloud_images(environment: Mapping[str, str]) -> Suite | None:
    """The digest list of the published root file system from which the `ubuntu` element starts."""
    script = stock_folder() / "ubuntu/root.d/10-cache-ubuntu-tarball"
    release = environment.get("DIB_RELEASE") or _default(script, "DIB_RELEASE")
    uri = environment.get("DIB_CLOUD_IMAGES") or _default(script, "DIB_CLOUD_IMAGES").replace("$DIB_RELEASE", release)
    return Suite(uri, f"{release}-cloud-images", "SHA256SUMS") if uri else None


def _default(script: Path | str, variable: str) -> str:
    """The default of a variable in diskimage-builder's own script: `${VARIABLE:-default}`."""
    text = script.read_text() if isinstance(script, Path) else script
    found = re.search(rf"\$\{{{variable}:-([^}}]+)\}}", text)
    return found[1] if found else ""
