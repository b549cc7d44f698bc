"""The step that makes the files of the version from the stopped machine's disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from imageflow.compute import Compute
from imageflow.config import Config
from imageflow.content.secret_search import SecretSearch
from imageflow.guest import keys, remains, scrub
from imageflow.host import disk_files
from imageflow.host.buildlog import Log
from imageflow.host.control import Control
from imageflow.host.workspace import Workspace
from imageflow.model import Build
from imageflow.recipe import ImageRecipe
from imageflow.tasks import leaks
from imageflow.tasks.finished import MakeOutputs, finished
from imageflow.tasks.results import FileResult, StoppedResult


class SnapshotMachine(MakeOutputs):
    """Flatten the disk, wipe remains of keys from free space, convert and compress it, with digests."""

    step = "snapshot-machine"
    title = "Make the image"

    def execute(
        self,
        build: Build,
        config: Config,
        compute: Compute,
        control: Control,
        log: Log,
        progress: Callable[[float, str], None],
        secret: Callable[[str], str],
        stopped: StoppedResult,
    ) -> list[FileResult]:
        work = Workspace.of(build, config)
        work.finished.mkdir(exist_ok=True)
        disk = compute.disk(stopped["machine"], control)
        raw = work.path / "disk.raw"
        raw.unlink(missing_ok=True)

        def within(start: float, end: float, phase: str) -> Callable[[float], None]:
            return lambda fraction: progress(start + fraction * (end - start), phase)

        disk_files.convert(
            Path(disk.path), disk.format, raw, "raw", control=control, log=log, progress=within(0.0, 0.2, "flatten")
        )
        search = SecretSearch(leaks.values_of(build, secret, log))
        # In a file a secret was found before the machine was sealed: what is wiped here is free space.
        needles = [*_key_material(work), *search.needles.all, *remains.key_material(raw, control)]
        wiped = scrub.scrub(raw, needles, control, within(0.2, 0.25, "wipe"))
        if wiped:
            log(f"wiped {wiped} remains of the build's keys and secrets from free space")
        leaks.refuse(leaks.in_disk(search, raw, control, within(0.25, 0.3, "look for secrets")), log.clean)
        outputs = ImageRecipe.from_json(build.recipe).outputs
        made = []
        for position, output in enumerate(outputs):
            start = 0.3 + 0.7 * position / len(outputs)
            to = work.finished / f"{build.image}.{output}"
            size = disk_files.convert(
                raw,
                "raw",
                to,
                output,
                control=control,
                log=log,
                progress=within(start, start + 0.6 / len(outputs), output),
            )
            made.append((to, disk_files.artifact_of(to, output, control, size)))
        raw.unlink(missing_ok=True)
        return finished(made, log)


def _key_material(work: Workspace) -> list[bytes]:
    """Byte strings of the build's own keys."""
    made = keys.make(work.ssh())
    found = [line.split()[1] for line in (made.public, made.host_public)]
    for private in (made.private, made.host_private):
        body = [line for line in private.read_text().splitlines() if "-----" not in line]
        found += [line for line in body if len(line) >= 40][1:]  # the first line is little but the format
    return [text.encode() for text in found]
