"""The step that runs diskimage-builder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from imageflow.config import Config
from imageflow.dib import blockdevice, credentials, environment
from imageflow.dib.cache import Cache
from imageflow.dib.plan import DibPlan
from imageflow.dib.watch import DibWatch
from imageflow.errors import CommandFailed, ImageflowError
from imageflow.host import process, removal
from imageflow.host.buildlog import Log
from imageflow.host.control import Control
from imageflow.host.workspace import Workspace
from imageflow.model import Build
from imageflow.tasks.base import Task
from imageflow.tasks.results import DiskResult, InputsResult, WorkspaceResult


class BuildDisk(Task):
    """Run diskimage-builder in namespaces of its own, which die with the worker."""

    step = "build-disk"
    title = "Build the disk"
    default_provides = "disk"

    def execute(
        self,
        build: Build,
        config: Config,
        workspace: WorkspaceResult,
        inputs: InputsResult,
        log: Log,
        progress: Callable[[float, str], None],
        control: Control,
        secret: Callable[[str], str],
    ) -> DiskResult:
        plan = DibPlan.of(build, config)
        work = plan.work
        if (done := _finished(work)) is not None:
            log("diskimage-builder had finished already: its files are taken as they are")
            return done
        empty(work, control.check)
        for folder in (work.built, work.home, config.cache_dir / "locks"):
            folder.mkdir(parents=True, exist_ok=True)
        env = plan.environment(secret)
        cache = plan.cache(env)
        env |= cache.fill()
        if (devices := plan.block_devices(env)) is not None:
            log("there is no device-mapper here: partitions are made with partx")
            (work.path / "block-device.yaml").write_text(devices)
            env[blockdevice.VARIABLE] = f"file://{work.path}/block-device.yaml"
        env |= _shown(work, env, shown := plan.shown_environment(env))

        watch = DibWatch(log, progress)
        folder = plan.folder if plan.folder.is_dir() else work.path  # a relative file in the recipe's environment
        argv = plan.argv()
        log(f"running: {' '.join(argv[1:])}")
        try:
            process.run(argv, control=control, log=watch, env=env, cwd=folder, isolate=True, name="disk-image-create")
        except CommandFailed as error:
            raise watch.failure(error) from error
        removal.detach_loops(work.path)  # what diskimage-builder left attached; normally nothing
        plan.check_inputs()  # an element must not have changed while it was read
        _keep(cache, plan, env, log)
        return _finish(work, plan.name, shown)

    def revert(self, build: Build, config: Config) -> None:
        empty(Workspace.of(build, config))

    def survives(self, result: DiskResult) -> bool:
        return _complete(result)


def empty(work: Workspace, check: Callable[[], None] = lambda: None) -> None:
    """Remove what an earlier run left, but not the folder or its tmpfs.

    `check` raises when another worker has taken over the build: the files are its work then.
    """
    removal.detach_loops(work.path)
    work.marker.unlink(missing_ok=True)
    for mount in removal.mounts_under(work.tmp):
        if mount.path != work.tmp:
            removal.unmount(mount.path)
    for entry in [*work.tmp.glob("*"), work.home, work.cache]:
        check()
        removal.remove_tree(entry)


def _shown(work: Workspace, env: dict[str, str], shown: dict[str, str]) -> dict[str, str]:
    """Variables that keep secrets out of the files that diskimage-builder writes into the image."""
    text = "".join(f"declare -x {name}={json.dumps(value)}\n" for name, value in shown.items())
    (work.path / "environment").write_text(text)
    found = environment.userinfo_in({name: value for name, value in env.items() if name.startswith("DIB_")})
    return {
        "IMAGEFLOW_ENVIRONMENT": str(work.path / "environment"),
        **({credentials.VARIABLE: "\n".join(found)} if found else {}),
    }


def _keep(cache: Cache, plan: DibPlan, env: dict[str, str], log: Log) -> None:
    """Keep the caches; a failure is only logged, as it costs nothing but time in the next build."""
    try:
        cache.take_back(lambda: plan.archives_unchanged(env))
    except (ImageflowError, OSError) as error:
        log(f"the caches were not kept: {error}")


def _finish(work: Workspace, name: str, environment: dict[str, str]) -> DiskResult:
    files = {file.name: file.stat().st_size for file in work.built.iterdir() if file.is_file()}
    result = DiskResult(folder=str(work.built), name=name, files=files, environment=environment)
    partial = work.marker.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    os.replace(partial, work.marker)
    return result


def _finished(work: Workspace) -> DiskResult | None:
    try:
        result: DiskResult = json.loads(work.marker.read_text())
    except (OSError, ValueError):
        return None
    return result if _complete(result) else None


def _complete(result: DiskResult) -> bool:
    folder = Path(result["folder"])
    try:
        return bool(result["files"]) and all(
            (folder / name).stat().st_size == size for name, size in result["files"].items()
        )
    except OSError:
        return False
