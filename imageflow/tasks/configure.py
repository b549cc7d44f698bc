"""One step for each entry of `configure`, followed by a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from imageflow import provisioners
from imageflow.errors import CommandFailed, Unavailable
from imageflow.guest.connect import SshConnection
from imageflow.inputs.stages import kind_of
from imageflow.tasks.base import Task
from imageflow.tasks.reboots import StepBoots
from imageflow.tasks.results import BootedResult, ConfiguredResult
from imageflow.tasks.workbench import Workbench


class Configure(Task):
    """Apply one entry of `configure`; skipped when a reused layer already contains it.

    Its layer is made at once where that costs nothing, otherwise where the recipe says `checkpoint: true`.
    """

    def __init__(self, position: int, step: str, title: str) -> None:
        """`position`: index of the entry; its stage is `position` + 1, as stage 0 is the unconfigured system."""
        self.step = step  # type: ignore[misc]
        self.title = title  # type: ignore[misc]
        self._position = position
        before = [f"configured_{position - 1}"] if position else []
        super().__init__(
            provides=f"configured_{position}",
            requires=["reached", *before],
        )

    def execute(
        self, bench: Workbench, secret: Callable[[str], str], machine: BootedResult, **_: Any
    ) -> ConfiguredResult:
        before, stage = bench.stages[self._position], bench.stages[self._position + 1]
        if machine["stage"] > self._position:
            bench.log("reused")
            return {"key": stage.key, "reused": True}
        entry = bench.image.configure[self._position]
        kind = kind_of(entry)

        def apply(guest: SshConnection) -> None:
            in_boots = StepBoots(bench, stage.key, guest, meant=provisioners.reboots(kind, entry[kind]))
            later = tuple(each.key for each in bench.stages[self._position + 1 :])
            if runs := in_boots.to_run():
                try:
                    with bench.way_in.before(guest) as spare:
                        provisioners.find(kind).apply(entry[kind], bench.context(guest, secret, bench.progress))
                        bench.way_in.hold(guest, later, spare)  # before a reboot, which it has to survive
                except (Unavailable, CommandFailed) as error:
                    in_boots.broken_off(error)
            if in_boots.end() or not runs:
                bench.way_in.hold(guest, later)
            guest.run("sync", control=bench.control)
            if bench.compute.layers.cheap or entry.get("checkpoint"):
                # here: a machine that dies before its layer exists starts again, too
                bench.checkpoint(stage, parent=before.key)

        bench.on_guest(before.key, apply)
        return {"key": stage.key, "reused": False}
