"""Caches shared between builds: bootstrapped systems, downloaded packages and cloud images.

A build has its own image cache, filled by hard links from the shared one and handed back only after
success, each file at once: two builds never see each other's half-made files, and apt's lock is not shared.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from imageflow.inputs.pins import Kind, Pins
from imageflow.model import Json

_KEPT_SYSTEMS = 4
_KEPT_BYTES = 6 << 30
_ABANDONED = 86400.0  # seconds after which a half-made file counts as abandoned
_LINKED_FROM = 1 << 20  # bytes; smaller files are copied, as they may be rewritten in place
_BOOTSTRAP_VARIABLES = (
    "DIB_RELEASE",
    "DIB_DEBIAN_COMPONENTS",
    "DIB_DEBOOTSTRAP_EXTRA_ARGS",
    "DIB_MMDEBSTRAP_EXTRA_ARGS",
    "DIB_DEBIAN_DEBOOTSTRAP_SCRIPT",
    "DIB_APT_KEYRING",
    "DIB_DEBIAN_KEYRING",
    "DIB_PYTHON_VERSION",
    "DISTRO_NAME",
    "ARCH",
)


def bootstrap_key(elements: Mapping[str, Path], environment: Mapping[str, str], pins: Json, arch: str) -> str | None:
    """Key of the system that debootstrap would make from these inputs; None when they don't determine it.

    With the digests of the archives' Release files in it, a cached system is never older than the
    archive that the build is pinned to.
    """
    archives = {str(name): value for name, value in Pins(pins) if name.kind == Kind.ARCHIVE and name.rest}
    if not archives or "debootstrap" not in elements:
        return None
    shaping = sorted(
        name for name, folder in elements.items() if (folder / "root.d").is_dir() or (folder / "environment.d").is_dir()
    )
    inputs = {
        "arch": arch,
        "archives": archives,
        "elements": {name: Pins(pins).of(Kind.ELEMENT).get(name) for name in shaping},
        "environment": {name: environment[name] for name in _BOOTSTRAP_VARIABLES if name in environment},
        "tools": {name: value for name, value in pins.items() if "bootstrap" in name or name == "diskimage-builder"},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


class Cache:
    """The shared cache of this machine, for one build."""

    def __init__(self, shared: Path, private: Path, key: str | None) -> None:
        self._files = shared / "image-create"
        self._private = private
        self._system = shared / "bootstrap" / f"{key}.tar.gz" if key else None
        self._made = private / "imageflow-bootstrap.tar.gz"

    def fill(self) -> dict[str, str]:
        """Link the cached files into the build's cache; -> the variables that point diskimage-builder at them."""
        self._private.mkdir(parents=True, exist_ok=True)
        for file in _cacheable(self._files):
            with contextlib.suppress(FileNotFoundError):  # pruned by another build
                _hand_over(file, self._private / _aside(file.relative_to(self._files)))
        if self._system is None:
            return {}
        taken = self._private / self._system.name
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._system)  # most recently used: pruned last
            _hand_over(self._system, taken)
        if taken.exists():
            return {"DIB_DEBIAN_USE_DEBOOTSTRAP_CACHE": "1", "IMAGEFLOW_BOOTSTRAP_CACHED": str(taken)}
        return {"IMAGEFLOW_BOOTSTRAP_SAVE": str(self._made)}

    def take_back(self, still_right: Callable[[], bool]) -> None:
        """Store what a successful build downloaded, and the system it bootstrapped.

        `still_right()` says whether the archives still match the key; without that the system is not stored.
        """
        for file in _cacheable(self._private):
            shared = self._files / file.relative_to(self._private)
            if not shared.exists():
                _hand_over(file, shared)
        if self._system is not None and self._made.exists() and not self._system.exists() and still_right():
            _hand_over(self._made, self._system)
        self.prune()

    def prune(self) -> None:
        """Drop the least recently used systems, and the oldest files when there are too many."""
        if self._system is not None:
            for old in sorted(self._system.parent.glob("*.tar.gz"), key=_age, reverse=True)[_KEPT_SYSTEMS:]:
                old.unlink(missing_ok=True)
        for half in (*self._files.rglob("*.partial"), *self._files.parent.glob("bootstrap/*.partial")):
            if _age(half) < time.time() - _ABANDONED:
                half.unlink(missing_ok=True)
        total = 0
        for file in sorted(_cacheable(self._files), key=_age, reverse=True):
            with contextlib.suppress(FileNotFoundError):
                total += file.stat().st_size
                if total > _KEPT_BYTES:
                    file.unlink()


def _cacheable(folder: Path) -> Iterator[Path]:
    """Downloads that are complete once they have their final name: cloud images, Debian packages."""
    for file in [*folder.glob("*"), *folder.glob("apt/*/*.deb")]:
        name = file.name
        if file.is_file() and not file.is_symlink() and "bootstrap" not in name and not name.startswith("."):
            yield file


def _aside(name: Path) -> Path:
    """Where a cached file waits: debian-minimal begins with 'apt-get clean', our element brings packages in after it."""
    return Path("imageflow-packages", *name.parts[1:]) if name.parts[0] == "apt" else name


def _age(file: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_mtime
    return 0.0


def _hand_over(file: Path, to: Path) -> None:
    """Link or copy a file, atomically; an existing one stays."""
    if to.exists():
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    partial = to.with_name(f".{to.name}.{os.getpid()}.{id(to)}.partial")
    try:
        if file.stat().st_size < _LINKED_FROM and not file.name.endswith(".deb"):
            shutil.copy2(file, partial)
        else:
            try:
                os.link(file, partial)
            except OSError:  # another file system
                shutil.copy2(file, partial)
        os.replace(partial, to)
    finally:
        partial.unlink(missing_ok=True)
