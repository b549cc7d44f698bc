"""The embedded store: one folder per image version, named by its digest, in one directory.

images/DIGEST/image.json        its description, readable without the database
images/DIGEST/debian.qcow2 …    the files, read-only
images/.adding-BUILD-…          half made, or left by a dead worker
images/.deleting-DIGEST-…       being deleted
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from imageflow.config import Config
from imageflow.errors import (
    ConfigError,
    Corrupt,
    NotFound,
    Refused,
    Unavailable,
)
from imageflow.host import locks, private
from imageflow.host.control import Control
from imageflow.model import Artifact
from imageflow.stores import About, ImageRef, contents
from imageflow.stores.places import DIGEST, appearing, artifact_of, check_names, explained

LOCK = ".lock"  # made with the first version, and never removed: without it nothing was ever stored here
_DESCRIPTION = "image.json"
_CORRUPT = ".corrupt"  # left by a failed verify: the version is no longer found, and add replaces it
_MODE = 0o444  # protects against accidental writes


@dataclass(frozen=True, slots=True)
class _Description:
    """The content of image.json."""

    artifacts: tuple[Artifact, ...]  # the primary one first
    builds: tuple[str, ...]  # the builds that made it; several when their bytes were identical
    created: float


class DirectoryStore:
    """Image versions in a directory; safe for any number of processes at once, on one host or on NFS."""

    name = "directory"
    shared = False

    def __init__(self, config: Config) -> None:
        self._root = config.store_path
        self.place = (self.name, os.path.realpath(self._root))

    @classmethod
    def at(cls, config: Config, where: str) -> Config:
        """See the protocol: an absolute path."""
        if not os.path.isabs(where):
            raise ConfigError(f"{where!r} is not an absolute path")
        return replace(config, store=cls.name, store_path=Path(where))

    def configured(self) -> None:
        """See the protocol: every setting has a default."""

    def ready(self, *, used: bool) -> None:
        """See the protocol: without the mount, files would be written below the mount point, and images not found."""
        if not self._root.is_dir():
            raise Unavailable(f"{self._root} is not a folder", hint="mount it, or make it")
        if used and not (self._root / LOCK).exists():
            raise Unavailable(
                f"{self._root} is not the folder it was: nothing was ever stored in it",
                hint=f"mount it; if all of it is gone for good: touch {self._root / LOCK}",
            )

    def check_properties(self, properties: Mapping[str, Any]) -> None:
        """See the protocol: any properties are accepted."""

    def find(self, digest: str, build_id: str | None = None) -> ImageRef | None:
        """The version with this digest, complete by names and sizes, or None; all builds share it."""
        found = self._read(digest)
        return None if found is None else self._ref(digest, found)

    def add(
        self,
        files: Sequence[tuple[Path, Artifact]],
        *,
        build_id: str,
        control: Control,
        move: bool = False,
        about: About | None = None,
        progress: Callable[[float], None] = lambda _: None,
    ) -> ImageRef:
        """See the protocol. With `move` the files are hard-linked here first, and their old names removed last."""
        check_names([artifact for _, artifact in files])
        digest = files[0][1].digest
        with explained("adding an image to", self._root):
            if not self._root.is_dir():
                self._root.mkdir(parents=True, exist_ok=True)
                private.publish(self._root)
            with self._locked():
                if (found := self._share(digest, build_id)) is not None:
                    return self._ref(digest, found)
            made = _Description(tuple(artifact for _, artifact in files), (build_id,), time.time())
            half = self._aside("adding", build_id)
            half.mkdir()
            private.publish(half)
            try:
                self._fill(half, files, made, control, move)
                ref = self._publish(half, digest, made, build_id, control)
            finally:
                shutil.rmtree(half, ignore_errors=True)
            if move:
                for source, _ in files:
                    with contextlib.suppress(OSError):
                        source.unlink()
            return ref

    def open(self, ref: ImageRef, artifact: str | None = None) -> IO[bytes]:
        """See the protocol."""
        path = self._root / ref.digest / artifact_of(ref, artifact).name
        with explained("reading", path):
            return path.open("rb")

    def copy_out(self, ref: ImageRef, artifact: str | None, to: Path, control: Control) -> Path:
        """See the protocol. The copy shares extents with the store if the file system can."""
        name = artifact_of(ref, artifact).name
        with appearing(to, name) as (half, whole), self.open(ref, name) as source:
            contents.copy(source.fileno(), half, control)
        return whole

    def verify(
        self,
        digest: str,
        control: Control,
        progress: Callable[[float], None] = lambda done: None,
    ) -> None:
        """See the protocol. A version that fails is no longer found until it passes or is added again."""
        folder = self._root / digest
        try:
            with explained("verifying", folder):
                if not DIGEST.fullmatch(digest) or not folder.is_dir():
                    raise NotFound(f"there is no image with digest {digest} in {self._root}")
                self._compare(folder, control, progress)
        except Corrupt:
            with contextlib.suppress(OSError):
                (folder / _CORRUPT).touch()
            raise
        with contextlib.suppress(OSError):
            (folder / _CORRUPT).unlink(missing_ok=True)

    def delete(self, digest: str, build_id: str | None = None) -> None:
        """See the protocol."""
        if not DIGEST.fullmatch(digest):
            return
        gone = self._aside("deleting", digest)
        with explained("deleting", self._root / digest):
            if not (self._root / digest).is_dir():
                return
            with self._locked():
                if build_id is not None and (there := _describe(self._root / digest)) is not None:
                    left = tuple(build for build in there.builds if build != build_id)
                    if left:
                        if left != there.builds:
                            self._write(digest, there, left)
                        return
                with contextlib.suppress(FileNotFoundError):
                    (self._root / digest).rename(gone)
                contents.sync_folder(self._root)
            shutil.rmtree(gone, onerror=_unless_gone)  # a janitor may be finishing this deletion

    def list(self, build_id: str | None = None) -> Sequence[ImageRef]:
        """See the protocol; oldest first."""
        found = [(name, there) for name in self._names() if (there := self._read(name)) is not None]
        found.sort(key=lambda item: item[1].created)
        return [self._ref(name, there) for name, there in found if build_id is None or build_id in there.builds]

    def tidy(self, alive: Callable[[str], bool]) -> Sequence[str]:
        """See the protocol; also finishes deletions of dead processes."""
        removed = []
        for name in self._names():
            kind, _, rest = name.partition("-")
            whose = rest.rpartition("-")[0]
            if kind == ".deleting" or (kind == ".adding" and not alive(whose)):
                with (
                    explained("tidying", self._root / name),
                    contextlib.suppress(FileNotFoundError),
                ):
                    shutil.rmtree(self._root / name, onerror=_unless_gone)
                    removed.append(name)
        return removed

    def _names(self) -> Sequence[str]:
        with explained("reading", self._root):
            try:
                return sorted(os.listdir(self._root))
            except FileNotFoundError:
                return []

    def _aside(self, kind: str, whose: str) -> Path:
        return self._root / f".{kind}-{whose}-{secrets.token_hex(4)}"

    def _ref(self, digest: str, description: _Description) -> ImageRef:
        path = self._root / digest / description.artifacts[0].name
        return ImageRef(self.name, digest, str(path), description.artifacts)

    def _read(self, digest: str) -> _Description | None:
        """The description of a complete version; None when it is absent, damaged or marked corrupt."""
        if not DIGEST.fullmatch(digest):
            return None
        folder = self._root / digest
        with explained("reading", folder):
            there = _describe(folder)
            if there is None or (folder / _CORRUPT).exists():
                return None
            whole = all(_size(folder / artifact.name) == artifact.size for artifact in there.artifacts)
        return there if whole else None

    def _share(self, digest: str, build_id: str) -> _Description | None:
        """Add this build to the builds of an existing complete version; call it under the lock."""
        there = self._read(digest)
        if there is not None and build_id not in there.builds:
            self._write(digest, there, (*there.builds, build_id))
        return there

    def _write(self, digest: str, there: _Description, builds: tuple[str, ...]) -> None:
        """Write which builds share a version; a reader sees the old description or the new one."""
        folder = self._root / digest
        half = folder / f".{_DESCRIPTION}.{secrets.token_hex(4)}"
        contents.write_json(half, _as_json(_Description(there.artifacts, builds, there.created)), _MODE)
        half.chmod(_MODE)
        half.rename(folder / _DESCRIPTION)
        contents.sync_folder(folder)

    def _fill(
        self,
        half: Path,
        sources: Sequence[tuple[Path, Artifact]],
        made: _Description,
        control: Control,
        move: bool,
    ) -> None:
        for source, artifact in sources:
            control.check()
            try:
                descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise NotFound(f"the file to store is not there: {source}") from error
            with os.fdopen(descriptor, "rb") as file:
                size = os.fstat(descriptor).st_size
                if size != artifact.size:
                    raise Corrupt(f"{source} has {size} bytes, and should have {artifact.size}")
                if not (move and contents.link(source, half / artifact.name, _MODE)):
                    contents.copy(file.fileno(), half / artifact.name, control, _MODE)
        contents.write_json(half / _DESCRIPTION, _as_json(made), _MODE)
        for stored in half.iterdir():
            stored.chmod(_MODE)  # whatever the umask
        contents.sync_folder(half)

    def _publish(
        self,
        half: Path,
        digest: str,
        made: _Description,
        build_id: str,
        control: Control,
    ) -> ImageRef:
        """Make the version visible, unless another process was faster."""
        damaged = self._aside("deleting", digest)
        with self._locked():
            control.check()  # last chance to stop a worker that lost its claim
            if (first := self._share(digest, build_id)) is not None:
                return self._ref(digest, first)
            if os.path.lexists(self._root / digest):
                (self._root / digest).rename(damaged)
            half.rename(self._root / digest)
            contents.sync_folder(self._root)
        shutil.rmtree(damaged, ignore_errors=True)
        return self._ref(digest, made)

    def _compare(self, folder: Path, control: Control, progress: Callable[[float], None]) -> None:
        there = _describe(folder)
        if there is None:
            raise Corrupt(f"{folder / _DESCRIPTION} is missing or not readable")
        with contextlib.ExitStack() as stack:
            opened = []  # all of them first: a version deleted meanwhile can still be read to its end
            for artifact in there.artifacts:
                try:
                    descriptor = os.open(
                        folder / artifact.name,
                        os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
                    )
                except OSError as error:
                    if not folder.exists():
                        raise NotFound(f"{folder} was deleted meanwhile") from error
                    if error.errno in (errno.ENOENT, errno.ELOOP):
                        raise Corrupt(f"{folder / artifact.name} is missing") from error
                    raise
                stack.callback(os.close, descriptor)
                opened.append((artifact, descriptor))
            total = sum(artifact.size for artifact in there.artifacts) or 1
            done = 0

            def report(count: int) -> None:
                nonlocal done
                done += count
                progress(min(done / total, 1.0))

            for artifact, descriptor in opened:
                size = os.fstat(descriptor).st_size
                if size != artifact.size:
                    raise Corrupt(f"{folder / artifact.name} has {size} bytes, and was stored with {artifact.size}")
                if contents.digest(descriptor, control, report) != artifact.digest:
                    raise Corrupt(f"{folder / artifact.name} is not what was stored: its SHA-256 differs")
        progress(1.0)

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock on the names in the store."""
        return locks.alone(self._root / LOCK, 0o644)


def _size(path: Path) -> int | None:
    """Bytes of a regular file; None when it is missing or not one."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _as_json(description: _Description) -> dict[str, Any]:
    return {"format": 1, **asdict(description)}


def _describe(folder: Path) -> _Description | None:
    try:
        data = json.loads((folder / _DESCRIPTION).read_bytes())
        artifacts = tuple(Artifact(**artifact) for artifact in data["artifacts"])
        check_names(artifacts)
        return _Description(artifacts, tuple(map(str, data["builds"])), float(data["created"]))
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
        TypeError,
        KeyError,
        Refused,
    ):
        return None


def _unless_gone(_what: object, _path: object, found: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(found[1], FileNotFoundError):
        raise found[1]
