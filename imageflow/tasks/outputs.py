"""The step that makes the files of the version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imageflow import resources
from imageflow.config import Config
from imageflow.control import Control
from imageflow.dib import environment
from imageflow.dib.outputs import Finisher
from imageflow.dib.plan import DibPlan
from imageflow.model import Build
from imageflow.tasks.base import Task
from imageflow.workspace import Workspace


class FinishOutputs(Task):
    """Convert and compress what diskimage-builder has left into the recipe's outputs, with their digests."""

    step = "finish-outputs"
    title = "Convert and compress"
    default_provides = "outputs"  # [{"path", "artifact": {name, format, size, digest, virtual_size}}]

    def execute(
        self,
        build: Build,
        config: Config,
        workspace: Any,
        disk: Any,
        log: Callable[[str], None],
        progress: Callable[[float, str], None],
        control: Control,
    ) -> list[dict[str, Any]]:
        plan = DibPlan.of(build, config)
        finisher = Finisher(
            built=Path(disk["folder"]),
            name=disk["name"],
            folder=plan.work.finished,
            image=build.image,
            definition=plan.image.dib,
            control=control,
            log=log,
            env=environment.base(plan.work),
        )
        made = []
        for position, output in enumerate(plan.outputs):

            def within(fraction: float, position: int = position, output: str = output) -> None:
                progress((position + fraction * 0.8) / len(plan.outputs), output)

            within(0.0)
            made += finisher.make(output, within)
        for file, artifact in made:
            log(f"{file.name}: {artifact.size} bytes, sha256 {artifact.digest}")
        return [{"path": str(file), "artifact": asdict(artifact)} for file, artifact in made]

    def revert(self, build: Build, config: Config) -> None:
        resources.remove_tree(Workspace.of(build, config).finished)

    def survives(self, result: Any) -> bool:
        return all(_whole(entry) for entry in result)


def _whole(entry: Any) -> bool:
    try:
        return bool(Path(entry["path"]).stat().st_size == entry["artifact"]["size"])
    except OSError:
        return False
