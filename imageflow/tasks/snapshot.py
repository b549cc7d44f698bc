"""The step that makes the files of the version of the stopped machine's disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imageflow import finishing, resources, secrets
from imageflow.compute import Compute
from imageflow.config import Config
from imageflow.control import Control
from imageflow.guest import keys, remains, scrub
from imageflow.model import Build
from imageflow.tasks.base import Task
from imageflow.workspace import Workspace

_SHORTEST = 8  # bytes of a secret that is looked for: a shorter one is found in any disk by chance


class SnapshotMachine(Task):
    """Flatten the disk, wipe what sealing left of keys in free space, convert and compress it, with digests."""

    step = "snapshot-machine"
    title = "Make the image"
    default_provides = "outputs"  # [{"path", "artifact": {name, format, size, digest, virtual_size}}]

    def execute(
        self,
        build: Build,
        config: Config,
        compute: Compute,
        control: Control,
        log: Callable[[str], None],
        progress: Callable[[float, str], None],
        secret: Callable[[str], str],
        stopped: Any,
    ) -> list[dict[str, Any]]:
        work = Workspace.of(build, config)
        work.finished.mkdir(exist_ok=True)
        disk = compute.disk(stopped["machine"], control)
        raw = work.path / "disk.raw"
        raw.unlink(missing_ok=True)

        def within(start: float, end: float, phase: str) -> Callable[[float], None]:
            return lambda fraction: progress(start + fraction * (end - start), phase)

        finishing.convert(
            Path(disk.path), disk.format, raw, "raw", control=control, log=log, progress=within(0.0, 0.2, "flatten")
        )
        needles = [*_needles(build, work, secret), *remains.key_material(raw, control)]
        wiped = scrub.scrub(raw, needles, control, within(0.2, 0.3, "wipe"))
        if wiped:
            log(f"wiped {wiped} remains of the build's keys from free space")
        outputs = build.recipe["outputs"]
        made = []
        for position, output in enumerate(outputs):
            start = 0.3 + 0.7 * position / len(outputs)
            to = work.finished / f"{build.image}.{output}"
            size = finishing.convert(
                raw,
                "raw",
                to,
                output,
                control=control,
                log=log,
                progress=within(start, start + 0.6 / len(outputs), output),
            )
            made.append((to, finishing.artifact_of(to, output, control, size)))
        raw.unlink(missing_ok=True)
        for file, artifact in made:
            log(f"{file.name}: {artifact.size} bytes, sha256 {artifact.digest}")
        return [{"path": str(file), "artifact": asdict(artifact)} for file, artifact in made]

    def revert(self, build: Build, config: Config) -> None:
        resources.remove_tree(Workspace.of(build, config).finished)

    def survives(self, result: Any) -> bool:
        return all(
            Path(entry["path"]).exists() and Path(entry["path"]).stat().st_size == entry["artifact"]["size"]
            for entry in result
        )


def _needles(build: Build, work: Workspace, secret: Callable[[str], str]) -> list[bytes]:
    """What no block of the image may hold."""
    made = keys.make(work.ssh())
    found = [line.split()[1] for line in (made.public, made.host_public)]
    for private in (made.private, made.host_private):
        body = [line for line in private.read_text().splitlines() if "-----" not in line]
        found += [line for line in body if len(line) >= 40][1:]  # the first line says little but the format
    found += [value for name in secrets.named_in(build.recipe) if len(value := secret(name)) >= _SHORTEST]
    return [text.encode() for text in found]
