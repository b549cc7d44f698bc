"""The step that puts the finished files into the store."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imageflow.control import Control
from imageflow.errors import ImageflowError
from imageflow.model import Artifact, Build, Json, ResourceKind
from imageflow.recipe.definition import has_boot_loader
from imageflow.stores import About, Store
from imageflow.tasks.base import Ledger, Task


class PublishImage(Task):
    """Store the version: all of its files or nothing.

    Its ledger row stays open until the version's own row owns the publication, in the transaction that
    ends the build.
    """

    step = "publish-image"
    title = "Publish"
    # {"image", "store", "digest", "path", "artifacts": […], "packages": int | None, "content": hex | None,
    #  "properties": {}}
    default_provides = "publication"

    def execute(
        self,
        build: Build,
        outputs: Any,
        description: Any,
        store: Store,
        ledger: Ledger,
        control: Control,
        progress: Callable[[float, str], None],
    ) -> Json:
        files = [_second_name(Path(entry["path"]), Artifact(**entry["artifact"])) for entry in [*outputs, description]]
        digest = files[0][1].digest
        ledger.open(ResourceKind.PUBLICATION, publication_name(store, digest))
        what = about(build, description)
        ref = store.add(
            files,
            build_id=build.id,
            control=control,
            move=True,
            about=what,
            progress=lambda fraction: progress(fraction, "store"),
        )
        return {
            "image": what.image,
            "store": ref.store,
            "digest": ref.digest,
            "path": ref.path,
            "artifacts": [asdict(artifact) for artifact in ref.artifacts],
            "packages": description["packages"],
            "content": description.get("content"),  # an earlier imageflow did not know it
            "properties": description["properties"],
        }

    def revert(self, build: Build, result: Any, store: Store, ledger: Ledger) -> None:
        if not isinstance(result, dict):
            return  # nobody knows the digest here: the ledger does, and the janitor removes it
        try:
            store.delete(result["digest"], build_id=build.id)
        finally:
            if not any(ref.digest == result["digest"] for ref in store.list(build.id)):
                ledger.close(ResourceKind.PUBLICATION, publication_name(store, result["digest"]))


def about(build: Build, description: Any) -> About:
    """What the store may tell its users of the version; `description` is describe-image's result."""
    publish = build.recipe.get("publish") or {}
    return About(
        image=publish.get("name") or build.image,
        key=build.key,
        recipe=build.image,
        properties=description["properties"],
        visibility=publish.get("visibility"),
        architecture=str(build.pins.get("architecture") or ""),
        firmware=str((build.recipe.get("machine") or {}).get("firmware") or ""),
        boot_loader=has_boot_loader(build.recipe),
    )


def _second_name(file: Path, artifact: Artifact) -> tuple[Path, Artifact]:
    """A name that the store may take: a worker that takes over still finds the file under its own."""
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
