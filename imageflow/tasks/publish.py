"""The step that puts the finished files into the store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from taskflow.types.failure import Failure

from imageflow.errors import ImageflowError
from imageflow.host.control import Control
from imageflow.model import Artifact, Build, ResourceKind
from imageflow.stores import Store, about
from imageflow.tasks.base import Ledger, Task
from imageflow.tasks.results import DescriptionResult, FileResult, PublicationResult, artifact_result


class PublishImage(Task):
    """Store the version: all of its files or nothing.

    Its ledger row stays open until the version's own row owns the publication, in the transaction that
    ends the build.
    """

    step = "publish-image"
    title = "Publish"
    default_provides = "publication"

    def execute(
        self,
        build: Build,
        outputs: list[FileResult],
        description: DescriptionResult,
        store: Store,
        ledger: Ledger,
        control: Control,
        progress: Callable[[float, str], None],
    ) -> PublicationResult:
        files = [
            *(_second_name(Path(entry["path"]), Artifact(**entry["artifact"])) for entry in outputs),
            _second_name(Path(description["path"]), Artifact(**description["artifact"])),
        ]
        digest = files[0][1].digest
        ledger.open(ResourceKind.PUBLICATION, publication_name(store, digest))
        what = about(build, description["properties"])
        ref = store.add(
            files,
            build_id=build.id,
            control=control,
            move=True,
            about=what,
            progress=lambda fraction: progress(fraction, "store"),
        )
        return PublicationResult(
            image=what.image,
            store=ref.store,
            digest=ref.digest,
            path=ref.path,
            artifacts=[artifact_result(artifact) for artifact in ref.artifacts],
            packages=description["packages"],
            content=description["content"],
            properties=description["properties"],
        )

    def revert(self, build: Build, result: PublicationResult | Failure | None, store: Store, ledger: Ledger) -> None:
        if not isinstance(result, dict):
            return  # the digest is unknown here, but it is in the ledger: the janitor removes it
        try:
            store.delete(result["digest"], build_id=build.id)
        finally:
            if not any(ref.digest == result["digest"] for ref in store.list(build.id)):
                ledger.close(ResourceKind.PUBLICATION, publication_name(store, result["digest"]))


def _second_name(file: Path, artifact: Artifact) -> tuple[Path, Artifact]:
    """A hard link that the store may move: after a takeover the file still has its own name."""
    to = file.parent / "to-the-store" / file.name
    to.parent.mkdir(exist_ok=True)
    to.unlink(missing_ok=True)
    os.link(file, to)
    return to, artifact


def publication_name(store: Store, digest: str) -> str:
    """How the ledger names a publication."""
    if ":" in store.name:
        raise ImageflowError(f"the store's name {store.name!r} contains ':'")
    return f"{store.name}:{digest}"
