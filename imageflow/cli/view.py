"""What --wait shows of builds, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imageflow.model import Build, Step

if TYPE_CHECKING:
    from imageflow.builds.estimate import Estimate


@dataclass(frozen=True, slots=True)
class BuildView:
    """One build as a view shows it."""

    build: Build
    steps: Sequence[tuple[str, str, Step | None]]  # (name, title, the latest attempt)
    estimate: Estimate | None  # of a running build
    log: Sequence[str]  # the last lines
    waits: str | None = None  # what it waits for, or who is silent about it


class View(Protocol):
    """Where build views are drawn."""

    def show(self, pictures: Sequence[BuildView]) -> None:
        """Redraw: something may have changed."""

    def say(self, text: str) -> None:
        """Print a message that stays."""

    def close(self) -> None:
        """Restore the terminal; it may be used again afterwards."""
