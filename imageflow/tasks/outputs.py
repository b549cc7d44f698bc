"""The step that makes the files of a static image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from imageflow.config import Config
from imageflow.content.secret_search import SecretSearch
from imageflow.dib import environment
from imageflow.dib.outputs import Finisher
from imageflow.dib.plan import DibPlan
from imageflow.host.buildlog import Log
from imageflow.host.control import Control
from imageflow.model import Build
from imageflow.tasks import leaks
from imageflow.tasks.finished import MakeOutputs, finished
from imageflow.tasks.results import DiskResult, FileResult, WorkspaceResult


class FinishOutputs(MakeOutputs):
    """Convert and compress diskimage-builder's files into the recipe's outputs, with their digests."""

    step = "finish-outputs"
    title = "Convert and compress"

    def execute(
        self,
        build: Build,
        config: Config,
        workspace: WorkspaceResult,
        disk: DiskResult,
        log: Log,
        progress: Callable[[float, str], None],
        control: Control,
        secret: Callable[[str], str],
    ) -> list[FileResult]:
        plan = DibPlan.of(build, config)
        search = _search(plan, secret, log)
        leaks.refuse(_leaks(search, Path(disk["folder"]), plan, control, log), log.clean)
        finisher = Finisher(
            built=Path(disk["folder"]),
            name=disk["name"],
            folder=plan.work.finished,
            image=build.image,
            definition=plan.image.dib,
            control=control,
            log=log,
            env=environment.base(plan.work),
        )
        made = []
        for position, output in enumerate(plan.outputs):

            def within(fraction: float, position: int = position, output: str = output) -> None:
                progress((position + fraction * 0.8) / len(plan.outputs), output)

            within(0.0)
            made += finisher.make(output, within)
        return finished(made, log)


def _search(plan: DibPlan, secret: Callable[[str], str], log: Log) -> SecretSearch:
    """The search for the recipe's secrets, and for the credentials of the host's mirrors."""
    mirrors = environment.userinfo_in(plan.environment(secret))
    return SecretSearch([*leaks.values_of(plan.build, secret, log), *mirrors])


def _leaks(search: SecretSearch, built: Path, plan: DibPlan, control: Control, log: Log) -> Iterator[str]:
    """Where the files that the outputs are made of hold a secret: disks and archives before they are compressed."""
    for file in sorted(built.glob(f"{plan.name}.*")):
        if not file.is_file():
            continue
        if file.suffix == ".raw":
            yield from leaks.in_disk(search, file, control)
        elif file.suffix in (".tar", ".aci"):
            yield from leaks.in_archive(search, file, control)
        elif file.suffix in (".squash", ".squashfs"):
            yield from leaks.in_squashfs(search, file, plan.work.path / "unpacked", control, log)
        else:
            yield from leaks.in_file(search, file, control)
