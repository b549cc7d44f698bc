"""What is a build's own: where things are in its work folder, and how its machines are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imageflow.config import Config
from imageflow.model import Build

MAIN = "main"  # the machine that an image is made on
THROW_AWAY = "verify"  # the one that a copy of the finished image boots on


def machine_name(build: Build, role: str = MAIN) -> str:
    """The name of a build's machine."""
    return f"{build.id}-{role}"


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

    def ssh(self, role: str = MAIN) -> Path:
        """The keys of a build's machine."""
        return self.path / ("ssh" if role == MAIN else f"ssh-{role}")

    @property
    def cache(self) -> Path:
        """diskimage-builder's image cache: private, filled from the shared one."""
        return self.path / "cache"

    @property
    def marker(self) -> Path:
        """Written when diskimage-builder has succeeded: a worker that takes over need not run it again."""
        return self.path / "built.json"
