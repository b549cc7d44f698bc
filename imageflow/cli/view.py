"""What --wait shows of builds, and where it shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imageflow.model import Build, Step

if TYPE_CHECKING:
    from imageflow.estimate import Estimate


@dataclass(frozen=True, slots=True)
class Picture:
    """One build as a view shows it."""

    build: Build
    steps: Sequence[tuple[str, str, Step | None]]  # (name, title, the latest attempt)
    estimate: Estimate | None  # of a running build
    log: Sequence[str]  # the last lines


class View(Protocol):
    """Where pictures go."""

    def show(self, pictures: Sequence[Picture]) -> None:
        """Something may have changed."""

    def say(self, text: str) -> None:
        """A message that stays."""

    def close(self) -> None:
        """Leave the terminal as it was; showing again is fine."""
