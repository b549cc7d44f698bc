"""An image's content and its inputs: diskimage-builder's manifests and ours, in one document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imageflow.model import Build
from imageflow.recipe import plain_secrets

_FOLDER = "dib-manifests"
_TREE = "imageflow-tree"  # our element's listing
_PACKAGES = "dib-manifest-dpkg-", "dib-manifest-rpm-"


def read_packages(folder: Path) -> list[dict[str, str]] | None:
    """The installed packages, {"name", "version", "arch"} each, sorted; None when there is no list."""
    files = [file for file in _files(folder) if file.name.startswith(_PACKAGES)]
    if not files:
        return None
    found = [entry for file in files for entry in _entries(file.read_text(errors="replace"))]
    installed = [entry for entry in found if str(entry.get("status", "ii")).strip().startswith(("ii", "hi"))]
    packages = [
        {"name": str(entry["package"]), "version": str(entry["version"]), "arch": str(entry["arch"])}
        for entry in installed
    ]
    return sorted(packages, key=lambda package: (package["name"], package["arch"], package["version"]))


def read_tree(folder: Path) -> bytes | None:
    """The listing of the finished tree, for content.digest; None when there is none."""
    try:
        return (folder / _TREE).read_bytes()
    except FileNotFoundError:
        return None


def describe(
    build: Build, folder: Path, packages: list[dict[str, str]] | None, environment: Mapping[str, str], clean: Any
) -> dict[str, Any]:
    """The whole document; `environment`: only what may be shown, `clean`: masks secrets in a text."""
    others = {
        file.name: clean(file.read_text(errors="replace"))
        for file in _files(folder)
        if not file.name.startswith((*_PACKAGES, "dib_environment", "dib_arguments"))
    }
    arguments = next((file for file in _files(folder) if file.name == "dib_arguments"), None)
    return {
        "imageflow": {"build": build.id, "image": build.image, "method": build.method, "key": build.key},
        "recipe": plain_secrets.public(build.recipe),
        "pins": dict(build.pins),
        "dib_arguments": clean(arguments.read_text(errors="replace").strip()) if arguments else None,
        "dib_environment": dict(environment),
        "packages": packages,
        "files": others,
    }


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / _FOLDER).glob("*") if file.is_file())


def _entries(text: str) -> list[dict[str, Any]]:
    """diskimage-builder's dpkg list is one object, our rpm list an object on each line."""
    try:
        return list(json.loads(text)["packages"])
    except (ValueError, KeyError, TypeError):
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]
