"""One machine of a build: its name and specification, its layers, and the login to it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from imageflow import provisioners
from imageflow.compute import Compute, Layer, Machine, MachineSpec, MachineState, Seed
from imageflow.config import Config
from imageflow.errors import (
    CommandFailed,
    ImageflowError,
    InputChanged,
    LockedOut,
    MachineLost,
    MachineTrouble,
    NoRoom,
    NoSpace,
    Unavailable,
)
from imageflow.guest import Access, boots, keys, seed, way_in
from imageflow.guest.connect import SshConnection
from imageflow.guest.keys import Keys
from imageflow.guest.way_in import WayIn
from imageflow.host.buildlog import Log
from imageflow.host.control import Control
from imageflow.host.workspace import MAIN, THROW_AWAY, Workspace, machine_name
from imageflow.inputs.stages import Stage, stages
from imageflow.model import Build, ResourceKind
from imageflow.recipe import ImageRecipe
from imageflow.tasks import reboots
from imageflow.tasks.base import Ledger
from imageflow.tasks.observer import Expect, Observer

T = TypeVar("T")
_BEGUN = "begun.json"
LIVES = 3  # times a machine may die during one step before the step fails


@dataclass(frozen=True, slots=True)
class Workbench:
    """One machine of a build: the one that the image is made on, or the throw-away one that verifies it."""

    build: Build
    config: Config
    compute: Compute
    ledger: Ledger
    control: Control
    log: Log
    progress: Callable[[float, str], None]
    role: str = MAIN

    @property
    def image(self) -> ImageRecipe:
        return ImageRecipe.from_json(self.build.recipe)

    @property
    def name(self) -> str:
        """The machine's name."""
        return machine_name(self.build, self.role)

    def of(self, role: str) -> Workbench:
        """A workbench for another machine of the build."""
        return replace(self, role=role)

    @property
    def work(self) -> Workspace:
        return Workspace.of(self.build, self.config)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The build's stages; for an installed system known once `prepare-machine` has taken the key it accepts."""
        login = keys.public(self.work.ssh()) if self.build.method == "install" else None
        return stages(self.build.recipe, self.build.pins, login)

    def spec(self, *, reboots: bool = True) -> MachineSpec:
        """The machine that the recipe asks for."""
        machine = self.image.machine
        return MachineSpec(machine.vcpus, machine.memory, machine.disk, firmware=machine.firmware, reboots=reboots)

    @property
    def keys(self) -> Keys:
        """The keys with which only this build can log into this machine."""
        return keys.make(self.work.ssh(self.role))

    def seed(self, *, closed: bool = False) -> Seed:
        """The cloud-init data for the machine's first boot; `closed`: its own SSH server does not let the build in."""
        return seed.make(
            self.keys,
            instance_id=f"{self.build.id}-{self.role}",
            user="root" if closed else self.image.machine.user,
            hostname="imageflow",
            server=22 if closed else None,
        )

    # -- layers ----------------------------------------------------------------------------------

    def layer(self, key: str) -> Layer:
        """A layer that this build depends on, held from now on."""
        found = self.compute.layers.hold(key, self.build.id)
        if found is None:
            raise InputChanged(f"layer {key[:12]} is gone", hint="abort the build and create it again")
        return found

    def deepest(self, above: int) -> tuple[int, str] | None:
        """(index, key) of the last stage after `above` that has a layer, held from now on; None if none has.

        A forced build uses only its own layers.
        """
        found = self.stages
        for index in range(len(found) - 1, above, -1):
            layer = self.compute.layers.hold(found[index].key, self.build.id)
            if layer is not None and (not self.build.forced or layer.build_id == self.build.id):
                return index, layer.key
        return None

    def release_layers(self) -> None:
        """Release all layers of the build; idempotent."""
        self.compute.layers.release(self.build.id)
        self.ledger.close(ResourceKind.LAYERS, self.build.id)

    def checkpoint(self, stage: Stage, *, parent: str | None) -> None:
        """Save the machine's disk as the layer of a stage."""
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
        """(index, key) of the stage the machine was started from; None when it was installed or has not started yet."""
        try:
            index, key = json.loads((self.work.path / _BEGUN).read_text())
        except (FileNotFoundError, ValueError):  # ValueError: the host went down while it was written
            return None
        return int(index), str(key)

    def begin(self, index: int, key: str) -> None:
        """Record that the machine is about to be started from this stage."""
        aside = self.work.path / f"{_BEGUN}.new"
        aside.write_text(json.dumps([index, key]))
        aside.rename(self.work.path / _BEGUN)

    def forget_begun(self) -> None:
        """Drop that record: the machine is installed again."""
        (self.work.path / _BEGUN).unlink(missing_ok=True)

    def start(self, key: str) -> Machine:
        """Start a new machine on this layer; one that runs already is adopted.

        Where layers are expensive, the last step may have none: then the machine continues from its own disk.
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
            reboots.forget(self.work.path)
            way_in.started(self.work.ssh(self.role), key)
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
        """Log which process the machine is."""
        how = f", {machine.accelerator}" if machine.accelerator else ""
        self.log(f"machine {machine.name} runs as {machine.process}{how}")

    def told(self, line: str) -> None:
        """Log what the driver reports while a machine starts; waiting for other machines is shown as progress, too."""
        self.log(line)
        if ") waits: " in line:
            self.progress(0.0, line.partition(") ")[2])

    @property
    def sealing(self) -> tuple[Path, Path]:
        """The files written when sealing begins (with what was found in the machine) and when it ends."""
        return self.work.path / "sealing.json", self.work.path / "sealed"

    @property
    def seeded(self) -> bool:
        """Whether the seed that authorized our key also set the host key; an installed system may have made its own."""
        return self.build.method == "boot" or self.role == THROW_AWAY

    @property
    def way_in(self) -> WayIn:
        """The build's way into the machine, to be kept open."""

        def again() -> SshConnection:
            return self.connect(Expect.NOW, report=False)

        return WayIn(self.keys, self.image.machine.user, self.seeded, again, self.control, self.log)

    def access(self) -> Access:
        """How to reach the running machine."""
        host, port = self.compute.address(self.name)
        user = way_in.account(self.work.ssh(self.role), self.image.machine.user)
        return keys.access(self.keys, host, port, user, host_known=self.seeded)

    def context(
        self, guest: SshConnection, secret: Callable[[str], str], progress: Callable[[float, str], None]
    ) -> provisioners.Context:
        """What a provisioner works with in this machine."""
        return provisioners.Context(
            guest=guest,
            access=self.access(),
            folder=Path(self.build.folder),
            pins=self.build.pins,
            work=self.scratch(),
            control=self.control,
            log=self.log,
            progress=progress,
            secret=secret,
        )

    def on_guest(self, key: str, work: Callable[[SshConnection], T], *, report: bool = False) -> T:
        """Run `work` in the machine; when the machine is missing or dies meanwhile, in a new one on this layer.

        `report`: the step itself waits for the boot, so the boot is its progress.
        """
        for life in range(1, LIVES + 1):
            seen: int | None = None
            try:
                fresh = self.compute.state(self.name) is not MachineState.RUNNING
                if fresh:
                    self.start(key)
                connection = self.connect(Expect.FIRST_BOOT if fresh or report else Expect.UP, report=report)
                seen = len(self.compute.console(self.name))
                with contextlib.closing(connection), self.control.watched(self.must_run):
                    self._set_clock(connection)
                    return work(connection)
            except (InputChanged, NoRoom, NoSpace, MachineLost, LockedOut):
                raise  # another start would fail the same way
            except ImageflowError as error:
                self.control.check()
                state = self.compute.state(self.name)
                if state is MachineState.RUNNING:
                    if isinstance(error, Unavailable) and seen is not None:
                        if self._rebooted(seen):
                            continue
                        error.hint = error.hint or "did this step restart its SSH server? Resume goes on in it"
                    raise
                if state is MachineState.STOPPED or life == LIVES:  # it would be powered off again
                    how = "was powered off" if state is MachineState.STOPPED else f"died {LIVES} times in a row"
                    raise MachineTrouble(
                        f"the machine {how} in this step: {error.message}",
                        hint=f"what it said last: imageflow build console {self.build.id}",
                    ) from error
                self.log(f"the machine is {state} ({error.message}): it starts again from its last layer")
        raise MachineTrouble(f"the machine rebooted {LIVES} times in this step", hint="see its console, then resume")

    def _set_clock(self, guest: SshConnection) -> None:
        """The clock of a machine that was put away has stood still: newer signatures would not be valid yet."""
        if not self.work.woken.exists():
            return
        try:
            guest.run(f"date -u -s @{time.time():.0f} > /dev/null", control=self.control, name="setting the clock")
        except CommandFailed as error:
            self.log(f"its clock can't be set: {error.message}")
        self.work.woken.unlink(missing_ok=True)

    def _rebooted(self, seen: int) -> bool:
        """After a lost connection: whether the machine has rebooted since the step began, or has to be looked at again.

        Raises what is wrong with it now. `seen`: bytes of its console before the connection was lost.
        """
        note = reboots.read(self.work.path)
        with contextlib.closing(self.connect(Expect.UP, seen=seen, report=False)) as connection:
            boot = boots.boot_id(connection, self.control)
        return note is not None and boot != note.boot

    def must_run(self) -> None:
        """Raise Unavailable unless the machine runs: a connection to one that powered itself off just goes silent."""
        if (state := self.compute.state(self.name)) is not MachineState.RUNNING:
            raise Unavailable(f"the machine is {state}")

    def connect(
        self, expect: Expect = Expect.FIRST_BOOT, *, report: bool = True, seen: int | None = None
    ) -> SshConnection:
        """Wait until login works, or until it is clear that it never will.

        When the machine was up before, old console output says nothing about its state now; what comes after `seen`
        bytes does.
        """
        if seen is None:
            seen = 0 if expect is Expect.FIRST_BOOT else len(self.compute.console(self.name))
        observer = Observer(self.compute, self.name, self.config, self.build.id, seen=seen)
        progress = self.progress if report else lambda *_: None
        return observer.await_ssh(self.access(), self.control, self.log, progress, expect)

    def delete(self) -> None:
        """Delete the machine, if there is one; its layers stay."""
        self.compute.delete(self.name)
        self.ledger.close(ResourceKind.MACHINE, self.name)

    def scratch(self) -> Path:
        """An empty folder for one step."""
        folder = self.work.path / "scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
