"""Shared by the steps that make the files of a version."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from imageflow.config import Config
from imageflow.host import removal
from imageflow.host.buildlog import Log
from imageflow.host.workspace import Workspace
from imageflow.model import Artifact, Build
from imageflow.tasks.base import Task
from imageflow.tasks.results import FileResult, file_result


class MakeOutputs(Task):
    """Make the recipe's outputs in the folder of finished files."""

    default_provides = "outputs"

    def revert(self, build: Build, config: Config) -> None:
        removal.remove_tree(Workspace.of(build, config).finished)

    def survives(self, result: list[FileResult]) -> bool:
        return all(_whole(entry) for entry in result)


def finished(made: Iterable[tuple[Path, Artifact]], log: Log) -> list[FileResult]:
    """The result of such a step; logs the files with their digests."""
    results = []
    for file, artifact in made:
        log(f"{file.name}: {artifact.size} bytes, sha256 {artifact.digest}")
        results.append(file_result(file, artifact))
    return results


def _whole(entry: FileResult) -> bool:
    try:
        return Path(entry["path"]).stat().st_size == entry["artifact"]["size"]
    except OSError:
        return False
