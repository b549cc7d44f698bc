"""The step that says what is in the image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imageflow.config import Config
from imageflow.content import known_digest
from imageflow.control import Control
from imageflow.dib import manifest
from imageflow.dib.environment import without_userinfo
from imageflow.dib.plan import DibPlan
from imageflow.finishing import artifact_of
from imageflow.model import Build, Json
from imageflow.tasks.base import Task


class DescribeImage(Task):
    """Write the manifest: packages, inputs and how it was built, without secrets."""

    step = "describe-image"
    title = "Describe the image"
    default_provides = (
        "description"  # {"packages": int | None, "content": hex | None, "properties": {}, "path", "artifact": {…}}
    )

    def execute(
        self, build: Build, config: Config, workspace: Any, disk: Any, log: Callable[[str], None], control: Control
    ) -> Json:
        plan = DibPlan.of(build, config)
        hide: Callable[[str], str] = getattr(log, "clean", str)
        folder = Path(disk["folder"]) / f"{disk['name']}.d"
        packages = manifest.read_packages(folder)
        content, why = known_digest(packages, manifest.read_tree(folder))
        log(why or f"content {content}")
        document = manifest.describe(
            build, folder, packages, disk["environment"], lambda text: hide(without_userinfo(text))
        )
        document["content"] = content
        plan.work.finished.mkdir(exist_ok=True)
        file = plan.work.finished / f"{build.image}.manifest.json"
        file.unlink(missing_ok=True)  # not written over: the store may have it under a name of its own
        file.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        return {
            "packages": None if packages is None else len(packages),
            "content": content,
            "properties": dict((build.recipe.get("publish") or {}).get("properties") or {}),
            "path": str(file),
            "artifact": asdict(artifact_of(file, "manifest", control)),
        }

    def survives(self, result: Any) -> bool:
        return Path(result["path"]).exists()
