"""The steps that describe an image's content: for static images, and for images made on a machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imageflow.config import Config
from imageflow.content import known_digest
from imageflow.content.secret_search import SecretSearch
from imageflow.dib import manifest
from imageflow.dib.environment import without_userinfo
from imageflow.dib.plan import DibPlan
from imageflow.host.buildlog import Log
from imageflow.host.control import Control
from imageflow.host.disk_files import artifact_of
from imageflow.host.workspace import Workspace
from imageflow.model import Build
from imageflow.recipe import ImageRecipe, plain_secrets
from imageflow.tasks import leaks
from imageflow.tasks.base import Task
from imageflow.tasks.results import (
    DescriptionResult,
    DiskResult,
    FileResult,
    SealedResult,
    StartResult,
    VerifiedResult,
    WorkspaceResult,
    artifact_result,
)


class _Describe(Task):
    """Write the manifest, a file beside the outputs."""

    step = "describe-image"
    title = "Describe the image"
    default_provides = "description"

    def survives(self, result: DescriptionResult) -> bool:
        return Path(result["path"]).exists()


class DescribeImage(_Describe):
    """Write the manifest: packages, inputs and how it was built, without secrets."""

    def execute(
        self,
        build: Build,
        config: Config,
        workspace: WorkspaceResult,
        disk: DiskResult,
        log: Log,
        control: Control,
        secret: Callable[[str], str],
    ) -> DescriptionResult:
        work = DibPlan.of(build, config).work
        folder = Path(disk["folder"]) / f"{disk['name']}.d"
        packages = manifest.read_packages(folder)
        content, why = known_digest(packages, manifest.read_tree(folder))
        log(why or f"content {content}")
        document = manifest.describe(
            build, folder, packages, disk["environment"], lambda text: log.clean(without_userinfo(text))
        )
        text = _text({**document, "content": content})
        _refuse(text, build, secret, log)
        return _described(build, work, text, None if packages is None else len(packages), content, control)


class DescribeMachineImage(_Describe):
    """Write the manifest: packages, inputs, layers and checks, without secrets."""

    def execute(
        self,
        build: Build,
        config: Config,
        log: Log,
        control: Control,
        secret: Callable[[str], str],
        start: StartResult,
        sealed: SealedResult,
        verified: VerifiedResult,
        outputs: list[FileResult],
    ) -> DescriptionResult:
        packages = sealed["packages"]
        document = {
            "imageflow": {"build": build.id, "image": build.image, "method": build.method, "key": build.key},
            "recipe": plain_secrets.public(build.recipe),
            "pins": dict(build.pins),
            "system": sealed["system"],
            "reused_layer": start["key"],
            "checks": verified["checks"],
            "packages": packages,
            "content": sealed["content"],
        }
        text, number = log.clean(_text(document)), None if packages is None else len(packages)
        _refuse(text, build, secret, log)
        return _described(build, Workspace.of(build, config), text, number, sealed["content"], control)


def _refuse(text: str, build: Build, secret: Callable[[str], str], log: Log) -> None:
    """Raise NotSealed if the manifest holds a secret in a form that masking has missed."""
    form = SecretSearch(leaks.values_of(build, secret, log)).in_text(text)
    leaks.refuse([f"its manifest ({form})"] if form else [], log.clean)


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)


def _described(
    build: Build, work: Workspace, text: str, packages: int | None, content: str | None, control: Control
) -> DescriptionResult:
    """Write the manifest's text."""
    work.finished.mkdir(exist_ok=True)
    file = work.finished / f"{build.image}.manifest.json"
    file.unlink(missing_ok=True)  # not overwritten in place: the store may hold a hard link to it
    file.write_text(f"{text}\n")
    return DescriptionResult(
        packages=packages,
        content=content,
        properties=dict(ImageRecipe.from_json(build.recipe).publish.properties),
        path=str(file),
        artifact=artifact_result(artifact_of(file, "manifest", control)),
    )
