"""What a build on a machine works with: the machine's name and making, its layers, and the way into it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from imageflow.compute import Compute, Layer, Machine, MachineSpec, MachineState, Seed
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import ImageflowError, InputChanged, MachineLost, MachineTrouble, NoSpace, Unavailable
from imageflow.guest import Access, keys, seed
from imageflow.guest.connect import Connection
from imageflow.guest.keys import Keys
from imageflow.model import Build, ResourceKind
from imageflow.recipe import ImageRecipe
from imageflow.stages import Stage, stages
from imageflow.tasks.base import Ledger
from imageflow.tasks.observer import Observer
from imageflow.workspace import MAIN, THROW_AWAY, Workspace, machine_name

T = TypeVar("T")
_BEGUN = "begun.json"
LIVES = 3  # times that a machine may die under one step before that is the step's failure


@dataclass(frozen=True, slots=True)
class Workbench:
    """One machine of a build: the one that the image is made on, or the throw-away one that verifies it."""

    build: Build
    config: Config
    compute: Compute
    ledger: Ledger
    control: Control
    log: Callable[[str], None]
    progress: Callable[[float, str], None]
    role: str = MAIN

    @property
    def image(self) -> ImageRecipe:
        return ImageRecipe.from_json(self.build.recipe)

    @property
    def name(self) -> str:
        """Of the machine."""
        return machine_name(self.build, self.role)

    def of(self, role: str) -> Workbench:
        """The same for another machine of the build."""
        return replace(self, role=role)

    @property
    def work(self) -> Workspace:
        return Workspace.of(self.build, self.config)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of an installed system they are there when `prepare-machine` has taken the key that it lets in."""
        login = keys.public(self.work.ssh()) if self.build.method == "install" else None
        return stages(self.build.recipe, self.build.pins, login)

    def spec(self, *, reboots: bool = True) -> MachineSpec:
        """What the recipe wants the machine to be."""
        machine = self.image.machine
        return MachineSpec(
            machine["vcpus"], machine["memory"], machine["disk"], firmware=machine["firmware"], reboots=reboots
        )

    @property
    def keys(self) -> Keys:
        """The keys that let this build into this machine, and nobody else."""
        return keys.make(self.work.ssh(self.role))

    def seed(self) -> Seed:
        """What the machine is told at its first boot."""
        return seed.make(
            self.keys, instance_id=f"{self.build.id}-{self.role}", user=self.image.machine["user"], hostname="imageflow"
        )

    # -- layers ----------------------------------------------------------------------------------

    def layer(self, key: str) -> Layer:
        """A layer that this build stands on, held from now on."""
        found = self.compute.layers.hold(key, self.build.id)
        if found is None:
            raise InputChanged(f"layer {key[:12]} is gone", hint="abort the build and create it again")
        return found

    def deepest(self, above: int) -> tuple[int, str] | None:
        """(index, key) of the last stage after `above` that there is a layer of, held from now on; None without one.

        A forced build has only its own.
        """
        found = self.stages
        for index in range(len(found) - 1, above, -1):
            layer = self.compute.layers.hold(found[index].key, self.build.id)
            if layer is not None and (not self.build.forced or layer.build_id == self.build.id):
                return index, layer.key
        return None

    def release_layers(self) -> None:
        """The build needs no layer any more; again is fine."""
        self.compute.layers.release(self.build.id)
        self.ledger.close(ResourceKind.LAYERS, self.build.id)

    def checkpoint(self, stage: Stage, *, parent: str | None) -> None:
        """Freeze the machine's disk as the layer of a stage."""
        self.compute.checkpoint(
            self.name,
            stage.key,
            parent=parent,
            title=f"{self.build.image}: {stage.title}",
            build_id=self.build.id,
            control=self.control,
        )

    # -- the machine -----------------------------------------------------------------------------

    @property
    def begun(self) -> tuple[int, str] | None:
        """(index, key) of the stage that the machine was started from; None where it was installed, or is yet to start."""
        try:
            index, key = json.loads((self.work.path / _BEGUN).read_text())
        except (FileNotFoundError, ValueError):  # ValueError: the host went down while it was written
            return None
        return int(index), str(key)

    def begin(self, index: int, key: str) -> None:
        """Write down that the machine is about to be started from this stage."""
        aside = self.work.path / f"{_BEGUN}.new"
        aside.write_text(json.dumps([index, key]))
        aside.rename(self.work.path / _BEGUN)

    def forget_begun(self) -> None:
        """The machine is installed anew."""
        (self.work.path / _BEGUN).unlink(missing_ok=True)

    def start(self, key: str) -> Machine:
        """A new machine on this layer; one that runs already is adopted.

        Where layers are dear there may be none for what was done last: then the machine goes on from its own disk.
        Raises MachineLost when it is gone.
        """
        layer = self.layer(key) if self.compute.layers.cheap else self.compute.layers.hold(key, self.build.id)
        self.ledger.open(ResourceKind.MACHINE, self.name)
        state = self.compute.state(self.name)
        if state is not MachineState.RUNNING:
            if layer is None and state is MachineState.ABSENT:
                raise MachineLost
            for file in (*reversed(self.sealing), self.keys.known_hosts):  # another boot may show another host key
                file.unlink(missing_ok=True)
            if layer is not None:
                self.compute.delete(self.name)
        return self.compute.ensure(
            self.name,
            self.spec(),
            build_id=self.build.id,
            control=self.control,
            log=self.told,
            disk=None if layer is None else layer.source,
            seed=self.seed(),
        )

    def say_running(self, machine: Machine) -> None:
        """Into the log: which process it is."""
        how = f", {machine.accelerator}" if machine.accelerator else ""
        self.log(f"machine {machine.name} runs as {machine.process}{how}")

    def told(self, line: str) -> None:
        """What the driver says while a machine starts; that it waits for others to end is progress, too."""
        self.log(line)
        if ") waits: " in line:
            self.progress(0.0, line.partition(") ")[2])

    @property
    def sealing(self) -> tuple[Path, Path]:
        """Written when this machine's sealing begins, with what was found in it, and when it is over."""
        return self.work.path / "sealing.json", self.work.path / "sealed"

    def access(self) -> Access:
        """How to reach the running machine."""
        host, port = self.compute.address(self.name)
        # What let us in gave the machine its host key, too; an installed system may have made its own, as it was installed.
        seeded = self.build.method == "boot" or self.role == THROW_AWAY
        return keys.access(self.keys, host, port, self.image.machine["user"], host_known=seeded)

    def on_guest(self, key: str, work: Callable[[Connection], T], *, report: bool = False) -> T:
        """Do something in the machine; when it is not there, or dies meanwhile, in a new one on this layer.

        `report`: waiting for it to boot is what this step does, and its progress.
        """
        for life in range(1, LIVES + 1):
            try:
                fresh = self.compute.state(self.name) is not MachineState.RUNNING
                if fresh:
                    self.start(key)
                connection = self.connect(booting=fresh or report, report=report)
                with contextlib.closing(connection), self.control.watched(self._must_run):
                    return work(connection)
            except (InputChanged, NoSpace, MachineLost):
                raise  # another start would meet the same
            except ImageflowError as error:
                self.control.check()
                state = self.compute.state(self.name)
                if state is MachineState.RUNNING:
                    if isinstance(error, Unavailable) and not error.hint:
                        error.hint = "did this step restart the machine, or its SSH server? Resume goes on in it"
                    raise
                if state is MachineState.STOPPED or life == LIVES:  # what powers it off would do so again
                    how = "was powered off" if state is MachineState.STOPPED else f"died {LIVES} times in a row"
                    raise MachineTrouble(
                        f"the machine {how} in this step: {error.message}",
                        hint=f"what it said last: imageflow build console {self.build.id}",
                    ) from error
                self.log(f"the machine is {state} ({error.message}): it starts again from its last layer")
        raise AssertionError

    def _must_run(self) -> None:
        """A connection to a machine that has powered itself off stays open, and silent."""
        if (state := self.compute.state(self.name)) is not MachineState.RUNNING:
            raise Unavailable(f"the machine is {state}")

    def connect(self, *, booting: bool = True, report: bool = True) -> Connection:
        """Wait until the machine lets us in, or until it is clear that it never will.

        One that is not `booting` was up before: what stood on its console then says nothing about now.
        """
        seen = 0 if booting else len(self.compute.console(self.name))
        observer = Observer(self.compute, self.name, self.config, self.build.id, seen=seen)
        progress = self.progress if report else lambda *_: None
        return observer.await_ssh(self.access(), self.control, self.log, progress)

    def delete(self) -> None:
        """The machine is gone, absent is fine; its layers stay."""
        self.compute.delete(self.name)
        self.ledger.close(ResourceKind.MACHINE, self.name)

    def scratch(self) -> Path:
        """An empty folder for one step."""
        folder = self.work.path / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
