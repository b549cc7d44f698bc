"""Cloud images that machines start from directly: the layer each stands for, in files on this host.

They have other owners, so they are never modified; another host adopts them again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from imageflow.compute import Layer, Source
from imageflow.host.locks import locked


class Adopted:
    """One file for each key in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, image: str, format: str, *, title: str, build_id: str) -> Layer:
        """Record this image as the layer with this key, held by the build."""
        with self._locked():
            known = self._read(key)
            record = {
                "image": image,
                "format": format,
                "title": title,
                "build": build_id,
                "created": known["created"] if known else time.time(),
                "holders": sorted({*(known["holders"] if known else ()), build_id}),
            }
            self._write(key, record)
        return _layer(key, record, time.time())

    def find(self, key: str) -> Layer | None:
        """The layer with this key."""
        try:
            used = self._file(key).stat().st_mtime
        except FileNotFoundError:
            return None
        record = self._read(key)  # None when it was forgotten just now
        return None if record is None else _layer(key, record, used)

    def hold(self, key: str, build_id: str) -> None:
        """Keep it as long as this build needs it."""
        with self._locked():
            if (record := self._read(key)) is not None:
                self._write(key, record | {"holders": sorted({*record["holders"], build_id})})

    def release(self, build_id: str) -> None:
        """Release all that the build holds."""
        with self._locked():
            for key in self._keys():
                record = self._read(key)
                if record is not None and build_id in record["holders"]:
                    used = self._file(key).stat().st_mtime
                    self._write(key, record | {"holders": [name for name in record["holders"] if name != build_id]})
                    os.utime(self._file(key), (used, used))

    def all(self) -> Sequence[Layer]:
        """All of them."""
        return [layer for key in self._keys() if (layer := self.find(key)) is not None]

    def collect(self, max_age: float, alive: Callable[[str], bool]) -> Sequence[Layer]:
        """Forget those unused for `max_age` seconds; -> the forgotten ones. The images stay: they are not ours."""
        gone = []
        with self._locked():
            for layer in self.all():
                if time.time() - layer.used >= max_age and not any(map(alive, layer.holders)):
                    self._file(layer.key).unlink(missing_ok=True)
                    gone.append(layer)
        return gone

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(self._folder / ".adopted.lock")

    def _file(self, key: str) -> Path:
        return self._folder / f"{key}.adopted"

    def _keys(self) -> list[str]:
        return sorted(file.name.removesuffix(".adopted") for file in self._folder.glob("*.adopted"))

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self._file(key).read_text())
            return record
        except (FileNotFoundError, ValueError):
            return None

    def _write(self, key: str, record: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        new = self._file(key).with_suffix(".new")
        new.write_text(json.dumps(record))
        new.rename(self._file(key))


def _layer(key: str, record: dict[str, Any], used: float) -> Layer:
    return Layer(
        key=key,
        source=Source(str(record["image"]), str(record["format"]), key),
        parent=None,
        build_id=str(record["build"]),
        title=str(record["title"]),
        created=float(record["created"]),
        used=used,
        size=0,
        holders=tuple(record["holders"]),
    )
