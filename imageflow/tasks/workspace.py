"""The first and last steps of a build on this host: its work folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from imageflow.config import Config
from imageflow.dib import preflight
from imageflow.dib.plan import DibPlan
from imageflow.errors import ImageflowError
from imageflow.host import removal
from imageflow.host.buildlog import Log
from imageflow.host.workspace import Workspace
from imageflow.model import Build, ResourceKind
from imageflow.tasks.base import Ledger, Task
from imageflow.tasks.results import WorkspaceResult


class PrepareWorkspace(Task):
    """Check the host and make the build's work folder, in memory if there is enough."""

    step = "prepare-workspace"
    title = "Prepare the work folder"
    default_provides = "workspace"

    def execute(self, build: Build, config: Config, ledger: Ledger, log: Log) -> WorkspaceResult:
        plan = DibPlan.of(build, config)
        work = plan.work
        preflight.check_machine(plan.elements(), plan.outputs)
        size = int(plan.image.dib.get("min-tmpfs") or 2) * preflight.GIB
        mounted = _is_mounted(work)  # left by a dead worker
        limit = 0
        if not mounted and _may_use_memory(plan, config):
            limit = preflight.memory_for(size, preflight.available_memory())
        memory = mounted or limit > 0

        ledger.open(ResourceKind.DIRECTORY, str(work.path))
        work.path.mkdir(parents=True, exist_ok=True)
        need = int(config.dib.min_free * preflight.GIB) + (0 if memory else size)
        preflight.check_space(work.path, need, "[dib] min_free" if memory else "[dib] min_free and the image itself")
        if limit:
            ledger.open(ResourceKind.MOUNT, str(work.tmp))
            removal.mount_tmpfs(work.tmp, limit)
        where = f"{shutil.disk_usage(work.tmp).total / preflight.GIB:.1f} GiB of memory" if memory else "on disk"
        log(f"work folder {work.path}, {where}")
        ledger.open(ResourceKind.LOOP, str(work.path))
        for folder in (work.tmp, work.home, work.elements):
            folder.mkdir(exist_ok=True)
        return {"path": str(work.path), "memory": memory}

    def revert(self, build: Build, config: Config, ledger: Ledger) -> None:
        remove_workspace(Workspace.of(build, config), ledger)

    def survives(self, result: WorkspaceResult) -> bool:
        work = Workspace(Path(result["path"]))
        return work.tmp.is_dir() and _is_mounted(work) == result["memory"]


class RemoveWorkspace(Task):
    """Remove the work folder; what can't be removed is left to the janitor."""

    step = "remove-workspace"
    title = "Clean up"

    def execute(self, build: Build, config: Config, ledger: Ledger, log: Log) -> None:
        try:
            remove_workspace(Workspace.of(build, config), ledger)
        except ImageflowError as error:
            log(f"the work folder is left to the janitor: {error}")


def remove_workspace(work: Workspace, ledger: Ledger) -> None:
    """Remove all that a build may have on this host, newest first; missing parts are fine."""
    for kind, name in (
        (ResourceKind.LOOP, work.path),
        (ResourceKind.MOUNT, work.tmp),
        (ResourceKind.DIRECTORY, work.path),
    ):
        removal.remove(kind, str(name))
        ledger.close(kind, str(name))


def _is_mounted(work: Workspace) -> bool:
    return any(mount.path == work.tmp for mount in removal.mounts_under(work.tmp))


def _may_use_memory(plan: DibPlan, config: Config) -> bool:
    environment = plan.image.dib.get("environment", {})
    return config.dib.tmpfs and not plan.image.dib.get("no-tmpfs") and environment.get("DIB_NO_TMPFS", "0") in ("", "0")
