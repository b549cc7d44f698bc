"""The step that says what is in an image that was made on a machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imageflow.config import Config
from imageflow.control import Control
from imageflow.finishing import artifact_of
from imageflow.model import Build, Json
from imageflow.tasks.base import Task
from imageflow.workspace import Workspace


class DescribeMachineImage(Task):
    """Write the manifest: packages, inputs, layers and checks, without secrets."""

    step = "describe-image"
    title = "Describe the image"
    default_provides = (
        "description"  # {"packages": int | None, "content": hex | None, "properties": {}, "path", "artifact": {…}}
    )

    def execute(
        self,
        build: Build,
        config: Config,
        log: Callable[[str], None],
        control: Control,
        start: Json,
        sealed: Json,
        verified: Json,
        outputs: Any,
    ) -> Json:
        hide: Callable[[str], str] = getattr(log, "clean", str)
        packages = sealed["packages"]
        content = sealed.get("content")  # an earlier imageflow, that sealed it, did not know it
        document = {
            "imageflow": {"build": build.id, "image": build.image, "method": build.method, "key": build.key},
            "recipe": dict(build.recipe),
            "pins": dict(build.pins),
            "system": sealed["system"],
            "reused_layer": start["key"],
            "checks": verified["checks"],
            "packages": packages,
            "content": content,
        }
        work = Workspace.of(build, config)
        work.finished.mkdir(exist_ok=True)
        file = work.finished / f"{build.image}.manifest.json"
        file.unlink(missing_ok=True)  # not written over: the store may have it under a name of its own
        file.write_text(hide(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)) + "\n")
        return {
            "packages": None if packages is None else len(packages),
            "content": content,
            "properties": dict((build.recipe.get("publish") or {}).get("properties") or {}),
            "path": str(file),
            "artifact": asdict(artifact_of(file, "manifest", control)),
        }

    def survives(self, result: Any) -> bool:
        return Path(result["path"]).exists()
