"""Versions of the programs that affect an image's bytes."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import shutil
from collections.abc import Collection

from imageflow.errors import Refused
from imageflow.host import process
from imageflow.recipe import ImageRecipe

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # disk-image-create searches here, too


def wanted(image: ImageRecipe, elements: Collection[str]) -> list[str]:
    """The programs used for this image, as diskimage-builder chooses them."""
    tools = []
    if "qcow2" in image.outputs:
        tools.append("qemu-img")
    if "squashfs" in image.outputs:
        tools.append("mksquashfs")
    if "debootstrap" in elements:
        tools.append("debootstrap")
        own_script = image.dib.get("environment", {}).get("DIB_DEBIAN_DEBOOTSTRAP_SCRIPT")
        if not own_script and find("mmdebstrap"):
            tools.append("mmdebstrap")  # diskimage-builder prefers it if installed
    return tools


def find(name: str) -> str | None:
    """The program's path."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def version(name: str) -> str:
    """The first line of `NAME --version`, without the name. Raises Refused when it is not installed."""
    path = find(name)
    if path is None:
        raise Refused(
            f"{name} is not installed", hint=f"install {_PACKAGES.get(name, name)}, the image is made with it"
        )
    found = os.stat(path)
    return _version(name, path, found.st_mtime_ns, found.st_size)


_PACKAGES = {"qemu-img": "qemu-utils", "mksquashfs": "squashfs-tools"}
_OPTIONS = {"mksquashfs": "-version"}


@functools.lru_cache(maxsize=64)
def _version(name: str, path: str, _changed: int, _size: int) -> str:
    """Run once per program, until the program changes."""
    printed = process.output([path, _OPTIONS.get(name, "--version")])
    first = next((line.strip() for line in printed.splitlines() if line.strip()), "")
    return first.removeprefix(name).strip().removeprefix("version").strip() or "unknown"


def packages() -> dict[str, str]:
    """Versions of diskimage-builder and imageflow itself."""
    return {name: importlib.metadata.version(name) for name in ("diskimage-builder", "imageflow")}
