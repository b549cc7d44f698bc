"""The step that collects the pinned inputs."""

from __future__ import annotations

import shutil

from imageflow.config import Config
from imageflow.dib import configure
from imageflow.dib.plan import DibPlan
from imageflow.model import Build
from imageflow.tasks.base import Task
from imageflow.tasks.results import InputsResult, WorkspaceResult


class CollectInputs(Task):
    """Check elements and files against their pins, and write the recipe's `configure` as an element."""

    step = "collect-inputs"
    title = "Collect the inputs"
    default_provides = "inputs"

    def execute(self, build: Build, config: Config, workspace: WorkspaceResult) -> InputsResult:
        plan = DibPlan.of(build, config)
        plan.check_inputs()
        shutil.rmtree(plan.work.elements, ignore_errors=True)
        plan.work.elements.mkdir()
        made = configure.write_element(plan.work.elements, plan.image.configure, plan.folder, build.pins)
        return {"configure": made}
