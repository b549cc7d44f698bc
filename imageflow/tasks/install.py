"""The steps of an unattended installation, from the installer's ISO to a disk with a system on it."""

from __future__ import annotations

from pathlib import Path

from imageflow.compute import Compute, MachineState
from imageflow.errors import InputChanged, MachineTrouble, Refused
from imageflow.flight import Cause
from imageflow.inputs import files
from imageflow.inputs.pins import Kind, Pins
from imageflow.iso import Additions, Answers, fit, method
from imageflow.iso import media as installers
from imageflow.iso.answers import check, compose, read
from imageflow.iso.remaster import remaster
from imageflow.model import Build, ResourceKind
from imageflow.tasks.base import Task
from imageflow.tasks.observer import Observer
from imageflow.tasks.prepare_machine import as_planned, fetched, from_glance, in_glance
from imageflow.tasks.results import (
    LayerResult,
    MachineResult,
    MediaResult,
    RemasteredResult,
    StartResult,
    machine_result,
)
from imageflow.tasks.workbench import LIVES, Workbench

_HOPELESS = (
    Cause.PANIC,
    Cause.BOOT_LOOP,
    Cause.NOT_INSTALLED,
    Cause.NO_BOOT,
)  # after these the installation has to start again


_MOST_TOLD = 30  # problems and remarks of an answer file in the build's log


class FetchMedia(Task):
    """Get the installer's ISO, checked against its pin."""

    step = "fetch-media"
    title = "Fetch the installer"
    default_provides = "media"

    def execute(self, bench: Workbench, start: StartResult) -> MediaResult | None:
        if start["stage"] >= 0:
            bench.log("reused")
            return None
        build = bench.build
        iso = bench.image.made_from
        digest = Pins(build.pins).made_from(Kind.ISO)[1]
        if iso.glance:
            path = from_glance(in_glance(digest, bench), bench, ("iso", "raw"))
        elif iso.url:
            path = fetched(iso, digest, bench)
        else:
            assert iso.file, iso
            path = as_planned(Path(build.folder) / iso.file, digest, bench)
        return {"path": str(path)}

    def survives(self, result: MediaResult | None) -> bool:
        return result is None or Path(result["path"]).is_file()


class RemasterMedia(Task):
    """Put the answer file on the ISO and make it boot into an unattended installation."""

    step = "remaster-media"
    title = "Remaster the ISO"
    default_provides = "remastered"

    def execute(self, bench: Workbench, start: StartResult, media: MediaResult | None) -> RemasteredResult | None:
        if media is None:
            bench.log("reused")
            return None
        answers, kind = bench.image.answers, Answers(bench.image.answers.kind)
        marker = f"imageflow: installed {bench.build.id}"
        text = _answers(bench.build, kind, answers.name)
        release = _fitting(bench, Path(media["path"]), kind, text)
        additions = Additions(bench.keys.public, marker, hold=bench.compute.console_delay)
        answer = compose(kind, text, additions, release)
        to = bench.work.path / "media.iso"
        to.unlink(missing_ok=True)
        remaster(
            Path(media["path"]),
            to,
            kind,
            answer,
            arguments=answers.arguments or "",
            control=bench.control,
            progress=lambda fraction: bench.progress(fraction, "remaster"),
        )
        return {"path": str(to), "marker": marker}

    def revert(self, bench: Workbench) -> None:
        (bench.work.path / "media.iso").unlink(missing_ok=True)

    def survives(self, result: RemasteredResult | None) -> bool:
        return result is None or Path(result["path"]).is_file()


def _answers(build: Build, kind: Answers, name: str) -> str:
    """The answer file's text, checked against its pin."""
    path = Path(build.folder) / name
    if files.digest(path) != Pins(build.pins).file(name):
        raise InputChanged(f"{name} is not what it was when the build was planned")
    return read(kind, path.read_bytes()).text


def _fitting(bench: Workbench, iso: Path, kind: Answers, text: str) -> str | None:
    """The release that a kickstart is completed for; raises Refused when the ISO and the answers don't fit.

    A local ISO was compared with them before the build: the others are here for the first time.
    """
    found = installers.inspect(iso)
    method.require(found, kind, bench.image.machine.firmware)
    fit.require_architecture(found, bench.config.machine_architecture)
    answers = bench.image.answers
    release = fit.release(found, kind, answers.release)
    problems = [*check(kind, text, answers.name, release), *fit.problems(found, kind, text, answers.release)]
    for problem in problems[:_MOST_TOLD]:
        bench.log(f"{'remark: ' if problem.remark else ''}{problem.shown(answers.name)}")
    if wrong := [problem.shown(answers.name) for problem in problems if not problem.remark]:
        raise Refused(
            f"the answers do not fit the ISO ({found.identity.shown}): {wrong[0]}", hint="correct one of them"
        )
    return release


class BootInstaller(Task):
    """Boot the machine on which the operating system is installed."""

    step = "boot-installer"
    title = "Boot the installer"
    default_provides = "installer"

    def execute(self, bench: Workbench, remastered: RemasteredResult | None) -> MachineResult | None:
        if remastered is None:
            bench.log("reused")
            return None
        return boot_installer(bench, remastered)

    def revert(self, bench: Workbench) -> None:
        bench.delete()

    def survives(self, result: MachineResult | None, compute: Compute) -> bool:
        return result is None or compute.state(result["name"]) is not MachineState.ABSENT


def boot_installer(bench: Workbench, remastered: RemasteredResult) -> MachineResult:
    """Boot it from the CD with an empty disk; a machine that runs already is adopted."""
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
    return machine_result(machine)


class AwaitInstalled(Task):
    """Watch the installer until it has reported success and powered the machine off."""

    step = "await-installed"
    title = "Install"
    default_provides = "base"

    def execute(
        self, bench: Workbench, remastered: RemasteredResult | None, installer: MachineResult | None
    ) -> LayerResult:
        stage, build = bench.stages[0], bench.build.id
        if remastered is None:
            bench.log("reused")
            return {"key": stage.key}
        if _installed(bench):  # a worker died right after it; the machine may already run from its disk
            return {"key": stage.key}
        if bench.compute.state(bench.name) is MachineState.ABSENT:
            boot_installer(bench, remastered)
        hopeless = bench.work.path / "hopeless"
        if hopeless.exists():  # resumed by an operator: the machine was kept only for inspection
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

    def survives(self, result: LayerResult, bench: Workbench) -> bool:
        ours = (
            result["key"] == bench.stages[0].key
        )  # otherwise another host installed it, for a key that this host lacks
        return ours and bench.compute.layers.find(result["key"]) is not None


def _installed(bench: Workbench) -> bool:
    """Whether this build has already made the layer of the installed system; the machine is not touched."""
    stage = bench.stages[0]
    layer = bench.compute.layers.hold(stage.key, bench.build.id)
    if layer is None or layer.build_id != bench.build.id:
        return False
    if bench.compute.state(bench.name) is not MachineState.ABSENT:
        bench.checkpoint(stage, parent=None)
    return True
