"""The step that brings the pinned inputs together."""

from __future__ import annotations

import shutil
from typing import Any

from imageflow.config import Config
from imageflow.dib import configure
from imageflow.dib.plan import DibPlan
from imageflow.model import Build, Json
from imageflow.tasks.base import Task


class CollectInputs(Task):
    """Check elements and files against their pins, and write the recipe's `configure` as an element."""

    step = "collect-inputs"
    title = "Collect the inputs"
    default_provides = "inputs"  # {"configure": bool}

    def execute(self, build: Build, config: Config, workspace: Any) -> Json:
        plan = DibPlan.of(build, config)
        plan.check_inputs()
        shutil.rmtree(plan.work.elements, ignore_errors=True)
        plan.work.elements.mkdir()
        made = configure.write_element(plan.work.elements, plan.image.configure, plan.folder, build.pins)
        return {"configure": made}
