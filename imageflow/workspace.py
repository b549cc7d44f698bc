"""Where things are in a build's work folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imageflow.config import Config
from imageflow.model import Build


@dataclass(frozen=True, slots=True)
class Workspace:
    """A build's work folder; everything that belongs to the build alone is in it."""

    path: Path

    @classmethod
    def of(cls, build: Build, config: Config) -> Workspace:
        """The work folder of a build; nothing is made."""
        return cls(config.builds_dir / build.id)

    @property
    def tmp(self) -> Path:
        """Where the image grows; memory, if there is enough."""
        return self.path / "tmp"

    @property
    def built(self) -> Path:
        """What diskimage-builder leaves; in `tmp`, so that it is renamed and not copied."""
        return self.tmp / "built"

    @property
    def finished(self) -> Path:
        """The files of the version, as they will be stored; never in memory."""
        return self.path / "finished"

    @property
    def elements(self) -> Path:
        """Elements that were generated for this build."""
        return self.path / "elements"

    @property
    def home(self) -> Path:
        """HOME of the children."""
        return self.path / "home"

    @property
    def cache(self) -> Path:
        """diskimage-builder's image cache: private, filled from the shared one."""
        return self.path / "cache"

    @property
    def marker(self) -> Path:
        """Written when diskimage-builder has succeeded: a worker that takes over need not run it again."""
        return self.path / "built.json"
