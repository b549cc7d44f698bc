"""Debian packages without installing them: from the archives that this machine's apt is configured for."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.services import missing, require


def run(*argv: str | Path, cwd: Path | None = None, stdin: bytes | None = None) -> str:
    """Run a program; -> its output. When it fails, the error contains the output."""
    done = subprocess.run(
        [str(a) for a in argv],
        cwd=cwd,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C", "PATH": f"/usr/sbin:/sbin:{os.environ.get('PATH', '')}"},
    )
    if done.returncode:
        raise RuntimeError(
            f"{argv[0]}: exit {done.returncode}: {(done.stdout + done.stderr).decode(errors='replace')[-2000:]}"
        )
    return done.stdout.decode(errors="replace")


def as_root(*argv: str | Path) -> list[str | Path]:
    """The command, run so that it sees an unprivileged user's files as root's."""
    return list(argv) if os.geteuid() == 0 else ["unshare", "--map-root-user", *argv]


@functools.cache
def versions(names: tuple[str, ...]) -> Mapping[str, str]:
    """name -> version that apt would install; the test is skipped when apt does not know one of them."""
    require("apt", missing("apt-cache", "apt-get", "dpkg-deb"))
    found: dict[str, str] = {}
    for line in run("apt-cache", "madison", *names).splitlines():
        name, version, _ = (part.strip() for part in line.split("|", 2))
        found.setdefault(name, version)
    require("a Debian package (apt-get update?)", [n for n in names if n not in found])
    return found


@functools.cache
def kernel() -> str:
    """Name of the newest package with Debian's kernel for clouds."""
    require("apt", missing("apt-cache"))
    lines = run("apt-cache", "depends", "linux-image-cloud-amd64").splitlines()
    names = [line.split()[1] for line in lines if line.strip().startswith("Depends: linux-image-")]
    require("Debian's cloud kernel", None if names else "no linux-image-cloud-amd64")
    return names[0]


def unpack(names: Sequence[str], to: Path) -> None:
    """Download the packages and unpack them into a folder, one over the other."""
    downloads = to.with_name(f"{to.name}.debs")
    downloads.mkdir()
    to.mkdir(exist_ok=True)
    run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names, cwd=downloads)
    for deb in sorted(downloads.glob("*.deb")):
        run("dpkg-deb", "-x", deb, to)


def suite() -> str:
    """The release of Debian that runs here, by its code name."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "")


def sources(component: str = "main", suites: str = "all") -> str:
    """Lines of a sources.list with the archives of this release from apt's configuration on this machine."""
    words = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(SIGNED_BY)"
    lines = run("apt-get", "indextargets", "--format", words, "Identifier: Packages").splitlines()
    found: dict[str, None] = {}
    for line in sorted(lines):
        uri, codename, archive, *signed = line.split()
        wanted = codename == suite() if suites == "base" else codename.split("-")[0] == suite()
        if wanted and archive == "main":
            key = f"[signed-by={signed[0]}] " if signed and signed[0].startswith("/") else ""
            found[f"deb {key}{uri} {codename} {component}\n"] = None
    require("Debian's archives in apt's sources", None if found else f"nothing for {suite()}")
    return "".join(found)


def unpack_udebs(names: Sequence[str], to: Path, info: Path) -> None:
    """Download components of Debian's installer, unpack them, and put their templates where its dpkg has them."""
    to.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for folder in ("lists/partial", "cache/archives/partial", "debs"):
            (place / folder).mkdir(parents=True)
        (place / "sources.list").write_text(sources("main/debian-installer", "base"))
        settings = {
            "Dir::Etc::sourcelist": place / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": place / "lists",
            "Dir::Cache": place / "cache",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
        }
        apt = ["apt-get", "-q", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
        run(*apt, "update")
        run(*apt, "download", *names, cwd=place / "debs")
        for name in names:
            (udeb,) = (place / "debs").glob(f"{name}_*.udeb")
            run("dpkg-deb", "-x", udeb, to)
            run("dpkg-deb", "-e", udeb, place / name)
            if (place / name / "templates").exists():
                (info / f"{name}.templates").write_bytes((place / name / "templates").read_bytes())
