"""Layers as folders on this host, for drivers whose machines have disk files here.

A layer is `KEY-BUILD/disk.FORMAT`; it exists once its `layer.json` does, which is written last. The
chain is read from the disks themselves. `held/BUILD` lists the layers that a build needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imageflow.compute import FORMATS, Layer, Source
from imageflow.compute.files import copy_in
from imageflow.errors import BadInput, NotFound, Refused
from imageflow.host.control import Control
from imageflow.host.locks import locked

_RECORD = "layer.json"
_KEY = re.compile(r"[0-9a-f]{8,64}")
_BUILD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")


@dataclass(frozen=True, slots=True)
class _Record:
    key: str
    format: str
    parent: str | None
    build_id: str
    title: str
    created: float
    stamp: tuple[int, int] | None = None  # size and mtime (ns) of a base, whose owner may still write to it


class FileLayers:
    """The layers below one folder; `chain` yields a disk and its backing files, raises OSError when one is gone."""

    cheap = True

    def __init__(
        self,
        folder: Path,
        *,
        chain: Callable[[Path], Iterator[Path]],
        check: Callable[[Path, str], None],
        disks: Callable[[], Iterable[Path]],
    ) -> None:
        """`check(file, format)` raises Refused for an invalid base; `disks` are those of all machines."""
        self.folder = folder
        self._chain = chain
        self._check = check
        self._disks = disks

    # -- the protocol --------------------------------------------------------------------------------

    def find(self, key: str) -> Layer | None:
        found = [layer for place in self._places(key) if (layer := self._read(place)) is not None]
        return max(found, key=lambda layer: layer.created, default=None)

    def hold(self, key: str, build_id: str) -> Layer | None:
        with self._locked():
            layer = self.find(key)
            if layer is not None:
                self._note(build_id, _place(layer))
                (Path(layer.source.path).with_name(_RECORD)).touch()
            return layer

    def release(self, build_id: str) -> None:
        with self._locked():
            self._held(build_id).unlink(missing_ok=True)
            used = self._used(())
            for place in self._places():
                if _maker(place) == build_id and not (place / _RECORD).exists() and place.name not in used:
                    shutil.rmtree(place)

    def add_base(self, key: str, file: Path, format: str, *, title: str, build_id: str, control: Control) -> Layer:
        if format not in FORMATS:
            raise Refused(f"{file}: a disk can't start as {format}", hint=f"convert it to {' or '.join(FORMATS)}")
        with locked(self.folder / f".{_checked(key, _KEY)}.lock", control):
            found = self.hold(key, build_id)
            if found is not None:
                return found
            place = self.begin(key, build_id)
            disk = place / f"disk.{format}"
            shutil.rmtree(place)
            place.mkdir(mode=0o700)
            new = place / "new"
            copy_in(file, new, control)
            self._check(new, format)
            new.rename(disk)
            return self.finish(place, disk, key=key, parent=None, title=title, build_id=build_id, base=True)

    def adopt(self, key: str, image: str, *, title: str, build_id: str) -> Layer | None:
        return None

    def list(self) -> Sequence[Layer]:
        found = [layer for place in self._places() if (layer := self._read(place)) is not None]
        holders = {build: self._standing(self._tops([build])) for build in sorted(self._holders())}
        told = [
            dataclasses.replace(
                layer, holders=tuple(build for build, names in holders.items() if _place(layer) in names)
            )
            for layer in found
        ]
        return sorted(told, key=lambda layer: layer.created, reverse=True)

    def collect(self, max_age: float, max_size: float, alive: Callable[[str], bool]) -> Sequence[Layer]:
        with self._locked():
            builds = {build for build in self._holders() if not alive(build)}
            for build in builds:
                self._held(build).unlink(missing_ok=True)
            used = self._used(self._holders())
            self._drop_half_made(used, alive)
            return self._drop_old(used, max_age, max_size)

    # -- for drivers ---------------------------------------------------------------------------------

    def begin(self, key: str, build_id: str) -> Path:
        """The folder of a layer to be made, held by the build; it may be half-made or complete already."""
        place = self.folder / f"{_checked(key, _KEY)}-{_checked(build_id, _BUILD)}"
        with self._locked():
            self._note(build_id, place.name)
            place.mkdir(mode=0o700, exist_ok=True)
        return place

    def finish(
        self, place: Path, disk: Path, *, key: str, parent: str | None, title: str, build_id: str, base: bool = False
    ) -> Layer:
        """Turn the final disk in this folder into a layer."""
        _sync(disk)
        stamp = _stamp(disk) if base else None
        record = _Record(key, disk.suffix[1:], parent, build_id, title, time.time(), stamp)
        new = place / f"{_RECORD}.new"
        with new.open("w") as file:
            json.dump(dataclasses.asdict(record), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(place / _RECORD)
        _sync(place)
        layer = self._read(place)
        if layer is None:
            raise NotFound(f"the layer below {key[:12]} is gone from {self.folder}")
        return layer

    def made(self, place: Path) -> Layer | None:
        """The layer in this folder, if it is complete."""
        return self._read(place)

    # -- files ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.folder / ".lock"):
            yield

    def _places(self, key: str | None = None) -> Iterator[Path]:
        if self.folder.is_dir():
            for entry in list(self.folder.iterdir()):
                found, dash, _ = entry.name.partition("-")
                if dash and key in (None, found) and _KEY.fullmatch(found) and entry.is_dir():
                    yield entry

    def _read(self, place: Path) -> Layer | None:
        try:
            values = json.loads((place / _RECORD).read_bytes())
            stamp = values.pop("stamp")
            record = _Record(**values, stamp=None if stamp is None else (stamp[0], stamp[1]))
            disk = place / f"disk.{record.format}"
            for part in self._chain(disk):
                if part.parent.parent == self.folder and part != disk and not (part.parent / _RECORD).exists():
                    return None
                os.stat(part)
            if record.stamp is not None and record.stamp != _stamp(disk):
                return None
            used = (place / _RECORD).stat().st_mtime
            size = disk.stat().st_blocks * 512
        except (OSError, ValueError, KeyError, TypeError):
            return None
        source = Source(str(disk), record.format, record.key)
        return Layer(record.key, source, record.parent, record.build_id, record.title, record.created, used, size)

    def _held(self, build_id: str) -> Path:
        return self.folder / "held" / _checked(build_id, _BUILD)

    def _holders(self) -> Sequence[str]:
        held = self.folder / "held"
        return [entry.name for entry in held.iterdir()] if held.is_dir() else []

    def _note(self, build_id: str, place: str) -> None:
        file = self._held(build_id)
        file.parent.mkdir(exist_ok=True)
        if place not in (file.read_text().splitlines() if file.exists() else ()):
            with file.open("a") as out:
                out.write(f"{place}\n")
                out.flush()
                os.fsync(out.fileno())

    def _used(self, builds: Iterable[str]) -> set[str]:
        """Names of the folders that these builds hold or machines use, with all layers below."""
        return self._standing((*self._tops(builds), *self._disks()))

    def _tops(self, builds: Iterable[str]) -> Sequence[Path]:
        """The disks that these builds hold."""
        found: Sequence[Path] = ()
        for build in builds:
            with contextlib.suppress(FileNotFoundError):  # released just now
                places = self._held(build).read_text().splitlines()
                found = (*found, *(disk for place in places for disk in self._disk(place)))
        return found

    def _standing(self, tops: Iterable[Path]) -> set[str]:
        """Names of the folders of these disks and of all layers below."""
        used = set()
        for top in tops:
            with contextlib.suppress(OSError):
                for part in self._chain(top):
                    if part.parent.parent == self.folder:
                        used.add(part.parent.name)
        return used

    def _disk(self, place: str) -> Sequence[Path]:
        return [disk for format in FORMATS if (disk := self.folder / place / f"disk.{format}").exists()]

    # -- collection ----------------------------------------------------------------------------------

    def _drop_half_made(self, used: set[str], alive: Callable[[str], bool]) -> None:
        for place in list(self._places()):
            if not (place / _RECORD).exists() and place.name not in used and not alive(_maker(place)):
                shutil.rmtree(place)

    def _drop_old(self, used: set[str], max_age: float, max_size: float) -> Sequence[Layer]:
        layers = {_place(layer): layer for layer in self.list()}
        below = {name: self._below(layer) for name, layer in layers.items()}
        last_use = {
            name: max(other.used for top, other in layers.items() if top == name or name in below[top])
            for name in layers
        }
        total = sum(layer.size for layer in layers.values())
        removed = list[Layer]()
        while True:
            stood_on = set().union(*(below[name] for name in layers))
            free = [name for name in layers if name not in used and name not in stood_on]
            oldest = min(free, key=lambda name: last_use[name], default=None)
            if oldest is None or (time.time() - last_use[oldest] <= max_age and total <= max_size):
                return removed
            layer = layers.pop(oldest)
            self._remove(self.folder / oldest)
            total -= layer.size
            removed.append(layer)

    def _below(self, layer: Layer) -> set[str]:
        disk = Path(layer.source.path)
        with contextlib.suppress(OSError):
            return {part.parent.name for part in self._chain(disk) if part != disk}
        return set()

    def _remove(self, place: Path) -> None:
        (place / _RECORD).unlink(missing_ok=True)  # no longer a layer, whatever happens next
        shutil.rmtree(place)


def _place(layer: Layer) -> str:
    """The name of the layer's folder."""
    return Path(layer.source.path).parent.name


def _maker(place: Path) -> str:
    return place.name.partition("-")[2]


def _checked(text: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(text):
        raise BadInput(f"{text!r} can't be part of a layer's name")
    return text


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _sync(path: Path) -> None:
    """Flush a file: a machine's disk is written without flushes, but a layer has to survive a power loss of the host."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
