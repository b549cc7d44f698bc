"""The layout of a build's work folder, and the names of its machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imageflow.model import Build

if TYPE_CHECKING:
    from imageflow.config import Config

MAIN = "main"  # the machine on which an image is made
THROW_AWAY = "verify"  # the machine on which a copy of the finished image boots


def machine_name(build: Build, role: str = MAIN) -> str:
    """The name of a build's machine."""
    return f"{build.id}-{role}"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A build's work folder, with everything that belongs to the build alone."""

    path: Path

    @classmethod
    def of(cls, build: Build, config: Config) -> Workspace:
        """The work folder of a build; creates nothing."""
        return cls(config.builds_dir / build.id)

    @property
    def tmp(self) -> Path:
        """The folder in which the image is built; in memory, if there is enough."""
        return self.path / "tmp"

    @property
    def built(self) -> Path:
        """diskimage-builder's output; in `tmp`, so that it is renamed and not copied."""
        return self.tmp / "built"

    @property
    def finished(self) -> Path:
        """The final files of the version; never in memory."""
        return self.path / "finished"

    @property
    def elements(self) -> Path:
        """Elements generated for this build."""
        return self.path / "elements"

    @property
    def woken(self) -> Path:
        """It exists after a machine was put away and came back: its clock has stood still."""
        return self.path / "woken"

    @property
    def home(self) -> Path:
        """HOME of the child processes."""
        return self.path / "home"

    def ssh(self, role: str = MAIN) -> Path:
        """The keys of a build's machine."""
        return self.path / ("ssh" if role == MAIN else f"ssh-{role}")

    @property
    def cache(self) -> Path:
        """diskimage-builder's private image cache, filled from the shared one."""
        return self.path / "cache"

    @property
    def marker(self) -> Path:
        """Written after diskimage-builder has succeeded, so that a takeover need not run it again."""
        return self.path / "built.json"
