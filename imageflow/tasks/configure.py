"""One step for each entry of `configure`, and a layer after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from imageflow import provisioners
from imageflow.guest.connect import Connection
from imageflow.model import Json
from imageflow.stages import kind_of
from imageflow.tasks.base import Task
from imageflow.tasks.workbench import Workbench


class Configure(Task):
    """Apply one entry of `configure`; it is skipped when a layer that has it is reused.

    Its layer follows at once where that costs nothing, else where the recipe says `checkpoint: true`.
    """

    def __init__(self, position: int, step: str, title: str) -> None:
        """`position`: of the entry, from 0; its stage is the next one, for the first stage is what is configured."""
        self.step = step  # type: ignore[misc]
        self.title = title  # type: ignore[misc]
        self._position = position
        before = [f"configured_{position - 1}"] if position else []
        super().__init__(
            provides=f"configured_{position}",  # {"key": its layer, "reused": bool}
            requires=["reached", *before],
        )

    def execute(self, bench: Workbench, secret: Callable[[str], str], start: Json, machine: Json, **_: Any) -> Json:
        before, stage = bench.stages[self._position], bench.stages[self._position + 1]
        if machine.get("stage", start["stage"]) > self._position:  # an earlier imageflow did not say it
            bench.log("reused")
            return {"key": stage.key, "reused": True}
        entry = bench.image.configure[self._position]
        kind = kind_of(entry)

        def apply(guest: Connection) -> None:
            provisioners.find(kind).apply(
                entry[kind],
                provisioners.Context(
                    guest=guest,
                    access=bench.access(),
                    folder=Path(bench.build.folder),
                    pins=bench.build.pins,
                    work=bench.scratch(),
                    control=bench.control,
                    log=bench.log,
                    progress=bench.progress,
                    secret=secret,
                ),
            )
            guest.run("sync", control=bench.control)
            if bench.compute.layers.cheap or entry.get("checkpoint"):
                # here: a machine that dies before its layer is there starts again, too
                bench.checkpoint(stage, parent=before.key)

        bench.on_guest(before.key, apply)
        return {"key": stage.key, "reused": False}
