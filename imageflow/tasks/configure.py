"""One step for each entry of `configure`, and a layer after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from imageflow import provisioners
from imageflow.compute import Compute
from imageflow.config import Config
from imageflow.control import Control
from imageflow.guest.connect import Connection
from imageflow.model import Build, Json
from imageflow.stages import kind_of
from imageflow.tasks.base import Ledger, Task
from imageflow.tasks.workbench import Workbench


class Configure(Task):
    """Apply one entry of `configure`; it is skipped when a layer that has it is reused."""

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

    def execute(
        self,
        build: Build,
        config: Config,
        compute: Compute,
        ledger: Ledger,
        control: Control,
        log: Callable[[str], None],
        progress: Callable[[float, str], None],
        secret: Callable[[str], str],
        start: Json,
        machine: Json,
        **_: Any,
    ) -> Json:
        bench = Workbench(build, config, compute, ledger, control, log, progress)
        before, stage = bench.stages[self._position], bench.stages[self._position + 1]
        if start["stage"] > self._position:
            log("reused")
            return {"key": stage.key, "reused": True}
        entry = bench.image.configure[self._position]
        kind = kind_of(entry)

        def apply(guest: Connection) -> None:
            provisioners.find(kind).apply(
                entry[kind],
                provisioners.Context(
                    guest=guest,
                    access=bench.access(),
                    folder=Path(build.folder),
                    pins=build.pins,
                    work=bench.scratch(),
                    control=control,
                    log=log,
                    progress=progress,
                    secret=secret,
                ),
            )
            guest.run("sync", control=control)
            title = f"{build.image}: {stage.title}"  # a machine that dies before its layer is there starts again, too
            compute.checkpoint(bench.name, stage.key, parent=before.key, title=title, build_id=build.id)

        bench.on_guest(before.key, apply)
        return {"key": stage.key, "reused": False}
