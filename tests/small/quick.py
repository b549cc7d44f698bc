"""A flow of one step that stores a tiny image: for tests of what happens before and after builds.

Files in the folder `trace` beside the recipe steer it by the image's name: `content-IMAGE` holds what its content
digest is made of (the build's id by default: every build differs), `fail-IMAGE` makes it fail, `slow-IMAGE` holds
the seconds that it takes.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from taskflow.patterns import linear_flow

from imageflow.errors import Refused
from imageflow.model import Artifact
from imageflow.tasks.base import Task
from tests.small.flow import Trace


class Quick(Task):
    """Stores a version at once."""

    step = "quick"
    default_provides = "publication"

    def execute(self, build: Any, config: Any, store: Any, control: Any) -> Any:
        trace = Trace(Path(build.folder) / "trace")
        trace.add(build=build.id, image=build.image, began=True)
        control.wait(float(_said(trace, f"slow-{build.image}") or 0))
        if trace.has(f"fail-{build.image}"):
            raise Refused("it was told to fail", hint="take the file away")
        content = _said(trace, f"content-{build.image}") or build.id
        config.builds_dir.mkdir(parents=True, exist_ok=True)
        file = config.builds_dir / f"{build.id}.raw"
        file.write_bytes(build.id.encode())
        artifact = Artifact(
            f"{build.image}.raw", "raw", file.stat().st_size, hashlib.sha256(build.id.encode()).hexdigest()
        )
        ref = store.add([(file, artifact)], build_id=build.id, control=control, move=True)
        trace.add(build=build.id, image=build.image, ended=True)
        return {
            "store": ref.store,
            "digest": ref.digest,
            "path": ref.path,
            "artifacts": [asdict(artifact) for artifact in ref.artifacts],
            "image": build.recipe["publish"]["name"],
            "packages": None,
            "properties": {},
            "content": hashlib.sha256(content.encode()).hexdigest(),
        }


def _said(trace: Trace, name: str) -> str:
    return (trace.folder / name).read_text() if trace.has(name) else ""


def quick() -> linear_flow.Flow:
    """The one step."""
    return linear_flow.Flow("quick").add(Quick())
