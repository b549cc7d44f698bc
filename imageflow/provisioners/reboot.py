"""A reboot of the machine."""

from __future__ import annotations

from pathlib import Path

from imageflow.model import Json
from imageflow.provisioners import Context


class Reboot:
    """`- reboot: {}`: nothing is done before the reboot, which the step makes (see `provisioners.reboots`)."""

    def title(self, value: Json) -> str:
        return "reboot"

    def sources(self, value: Json) -> tuple[str, ...]:
        return ()

    def check(self, value: Json, folder: Path) -> None:
        pass

    def apply(self, value: Json, context: Context) -> None:
        pass
