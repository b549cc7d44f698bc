"""The steps of an unattended installation, from the installer's ISO to a disk with a system on it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from imageflow.compute import Compute, MachineState
from imageflow.errors import InputChanged, MachineTrouble
from imageflow.flight import Cause
from imageflow.iso import Additions, Answers
from imageflow.iso.answers import compose
from imageflow.iso.remaster import remaster
from imageflow.model import Build, Json, ResourceKind
from imageflow.pins import files
from imageflow.tasks.base import Task
from imageflow.tasks.observer import Observer
from imageflow.tasks.prepare_machine import as_planned, fetched, from_glance, in_glance
from imageflow.tasks.workbench import LIVES, Workbench

_HOPELESS = (Cause.PANIC, Cause.BOOT_LOOP, Cause.NOT_INSTALLED, Cause.NO_BOOT)  # such a machine has to start anew


class FetchMedia(Task):
    """Get the installer's ISO, checked against its pin."""

    step = "fetch-media"
    title = "Fetch the installer"
    default_provides = "media"  # {"path": the vendor's ISO} or None when its result is reused

    def execute(self, bench: Workbench, start: Json) -> Json | None:
        if start["stage"] >= 0:
            bench.log("reused")
            return None
        build = bench.build
        iso = build.recipe["iso"]
        digest = next(pin for name, pin in build.pins.items() if name.partition(":")[0] == "iso")
        if "glance" in iso:
            path = from_glance(in_glance(digest, bench), bench, ("iso", "raw"))
        elif "url" in iso:
            path = fetched(iso, digest, bench)
        else:
            path = as_planned(Path(build.folder) / iso["file"], digest, bench)
        return {"path": str(path)}

    def survives(self, result: Any) -> bool:
        return result is None or Path(result["path"]).is_file()


class RemasterMedia(Task):
    """Put the answer file on the ISO and make it boot into an unattended installation."""

    step = "remaster-media"
    title = "Remaster the ISO"
    default_provides = "remastered"  # {"path", "marker": what the installed system says at the end} or None

    def execute(self, bench: Workbench, start: Json, media: Json | None) -> Json | None:
        if media is None:
            bench.log("reused")
            return None
        kind, name = bench.image.answers
        marker = f"imageflow: installed {bench.build.id}"
        answer = compose(
            Answers(kind),
            _answers(bench.build, name),
            Additions(bench.keys.public, marker, hold=bench.compute.console_delay),
        )
        to = bench.work.path / "media.iso"
        to.unlink(missing_ok=True)
        remaster(
            Path(media["path"]),
            to,
            Answers(kind),
            answer,
            arguments=bench.build.recipe["answers"].get("arguments") or "",
            control=bench.control,
            progress=lambda fraction: bench.progress(fraction, "remaster"),
        )
        return {"path": str(to), "marker": marker}

    def revert(self, bench: Workbench) -> None:
        (bench.work.path / "media.iso").unlink(missing_ok=True)

    def survives(self, result: Any) -> bool:
        return result is None or Path(result["path"]).is_file()


def _answers(build: Build, name: str) -> str:
    """The answer file's text, as it was pinned."""
    path = Path(build.folder) / name
    if files.digest(path) != build.pins[f"file:{name}"]:
        raise InputChanged(f"{name} is not what it was when the build was planned")
    return path.read_text()


class BootInstaller(Task):
    """Boot the machine that the operating system is installed on."""

    step = "boot-installer"
    title = "Boot the installer"
    default_provides = "installer"  # imageflow.compute.Machine, or None when its result is reused

    def execute(self, bench: Workbench, remastered: Json | None) -> Json | None:
        if remastered is None:
            bench.log("reused")
            return None
        return boot_installer(bench, remastered)

    def revert(self, bench: Workbench) -> None:
        bench.delete()

    def survives(self, result: Any, compute: Compute) -> bool:
        return result is None or compute.state(result["name"]) is not MachineState.ABSENT


def boot_installer(bench: Workbench, remastered: Json) -> Json:
    """Boot it from the CD onto an empty disk; one that runs already is adopted."""
    bench.forget_begun()
    bench.ledger.open(ResourceKind.MACHINE, bench.name)
    machine = bench.compute.ensure(
        bench.name,
        bench.spec(reboots=False),
        build_id=bench.build.id,
        control=bench.control,
        log=bench.log,
        cdrom=Path(remastered["path"]),
    )
    bench.say_running(machine)
    return asdict(machine)


class AwaitInstalled(Task):
    """Watch the installer until it has powered the machine off and has said that it is done."""

    step = "await-installed"
    title = "Install"
    default_provides = "base"  # {"key": layer of the installed system}

    def execute(self, bench: Workbench, remastered: Json | None, installer: Json | None) -> Json:
        stage, build = bench.stages[0], bench.build.id
        if remastered is None:
            bench.log("reused")
            return {"key": stage.key}
        if _installed(bench):  # by a worker that died then; the machine may run from its disk already
            return {"key": stage.key}
        if bench.compute.state(bench.name) is MachineState.ABSENT:
            boot_installer(bench, remastered)
        hopeless = bench.work.path / "hopeless"
        if hopeless.exists():  # an operator resumes: the machine was kept to be looked at, and is of no other use
            bench.log("the installer starts again from the beginning")
            bench.compute.delete(bench.name)
            hopeless.unlink()
            boot_installer(bench, remastered)
        for life in range(1, LIVES + 1):
            observer = Observer(bench.compute, bench.name, bench.config, build, installer=True)
            trouble = observer.await_end(remastered["marker"], bench.control, bench.log, bench.progress)
            if trouble is None:
                break
            if trouble.cause is Cause.DIED and life < LIVES:
                bench.log(f"{trouble.message}: the installer starts again from the beginning")
                bench.compute.delete(bench.name)
                boot_installer(bench, remastered)
                continue
            if trouble.cause in _HOPELESS:
                hopeless.touch()
            raise MachineTrouble(
                trouble.message, hint=f"{trouble.hint}; imageflow build screenshot {build}, build console {build}"
            )
        bench.checkpoint(stage, parent=None)
        return {"key": stage.key}

    def survives(self, result: Any, bench: Workbench) -> bool:
        ours = result["key"] == bench.stages[0].key  # else another host installed it, for a key that is not here
        return ours and bench.compute.layers.find(result["key"]) is not None


def _installed(bench: Workbench) -> bool:
    """Whether this build has made the layer of the installed system already; its machine is left as that leaves it."""
    stage = bench.stages[0]
    layer = bench.compute.layers.hold(stage.key, bench.build.id)
    if layer is None or layer.build_id != bench.build.id:
        return False
    if bench.compute.state(bench.name) is not MachineState.ABSENT:
        bench.checkpoint(stage, parent=None)
    return True
