"""The machines of builds for a user at a terminal: login, console, screen, layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imageflow.compute import Compute, Layer, MachineSpec, MachineState
from imageflow.config import Config
from imageflow.errors import Conflict, NoRoom, NotFound, Unavailable
from imageflow.flight.record import screenshots
from imageflow.guest import Access, way_in
from imageflow.host.control import Control
from imageflow.host.workspace import MAIN, THROW_AWAY, Workspace, machine_name
from imageflow.model import Build, BuildState
from imageflow.recipe import ImageRecipe

_REACHED = (MachineState.RUNNING, MachineState.PARKED)
_BACK = 300.0  # seconds for a machine to come back


@dataclass(frozen=True, slots=True)
class Picture:
    """What a screen showed."""

    png: bytes
    taken: float | None  # seconds since the epoch; None: right now


class Machines:
    """The machines of builds on this host, by build and role."""

    def __init__(self, config: Config, compute: Compute) -> None:
        self._config = config
        self._compute = compute

    def running(self, build: Build) -> list[str]:
        """The roles of the machines that can be logged into, the one that the image is made on first.

        They run, or are put away: then a login brings them back.
        """
        if not has_machine(build) or self._elsewhere(build):
            return []
        try:
            return [role for role in (MAIN, THROW_AWAY) if self._state(build, role) in _REACHED]
        except Unavailable:  # the cloud is down: its machines can't be reached now
            return []

    def login(self, build: Build, role: str = MAIN) -> Access:
        """How to log into a machine. Raises Conflict when it is not running, NotFound when its keys are gone.

        One that is put away is brought back, if there is room; it stays as long as a user is logged in.
        """
        self._check_here(build)
        state = self._state(build, role)
        if state is MachineState.PARKED and build.state is BuildState.PAUSED:
            self._bring_back(build, role)
            state = self._state(build, role)
        if state is not MachineState.RUNNING:
            raise Conflict(f"{_words(build, role)} {_how(build, state)}", hint=self._instead(build, role))
        folder = Workspace.of(build, self._config).ssh(role)
        key, known_hosts = folder / "client_key", folder / "known_hosts"
        if not key.exists():
            raise NotFound(
                f"the key of {_words(build, role)} is not there: {key}",
                hint="check the permissions of the state directory, or abort the build and create it again",
            )
        if not known_hosts.exists():
            raise Conflict(
                f"{_words(build, role)} has not been reached yet: its host key is not known",
                hint=f"it is starting; see 'imageflow build console {build.id}', and try again",
            )
        host, port = self._compute.address(machine_name(build, role))
        user = way_in.account(folder, ImageRecipe.from_json(build.recipe).machine.user)
        return Access(host, port, user, key, known_hosts)

    def _bring_back(self, build: Build, role: str) -> None:
        wanted = ImageRecipe.from_json(build.recipe).machine
        spec = MachineSpec(wanted.vcpus, wanted.memory, wanted.disk, firmware=wanted.firmware)
        control = Control(time.monotonic() + _BACK, build_id=build.id)
        control.yields = True
        Workspace.of(build, self._config).woken.touch()
        name = machine_name(build, role)
        try:
            self._compute.ensure(name, spec, build_id=build.id, control=control, log=lambda _: None)
        except NoRoom as error:
            raise Conflict(
                f"{_words(build, role)} is put away, and there is no room to bring it back: {error.message}",
                hint="try again when another build has ended",
            ) from None

    def console(self, build: Build, role: str = MAIN, offset: int = 0) -> bytes:
        """Serial output from this byte on: the machine's, or its recording; b'' when there is none (yet)."""
        self._check_here(build)
        data = self._compute.console(machine_name(build, role), offset)
        if data or self._state(build, role) is not MachineState.ABSENT:
            return data
        try:
            with (self._records(build) / f"{machine_name(build, role)}.console.log").open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""

    def screenshot(self, build: Build, role: str = MAIN) -> Picture:
        """What the screen shows now, otherwise the last recording. Raises NotFound when there is neither."""
        self._check_here(build)
        try:
            png = self._compute.screenshot(machine_name(build, role))
        except Unavailable:  # it ended at this very moment
            png = None
        if png is not None:
            return Picture(png, None)
        try:
            latest = screenshots(self._records(build), machine_name(build, role))[-1]
            return Picture(latest.read_bytes(), latest.stat().st_mtime)
        except (IndexError, FileNotFoundError):
            state = _how(build, self._state(build, role))
            raise NotFound(
                f"{_words(build, role)} {state}, and no screenshot of it was recorded",
                hint=f"see 'imageflow build console {build.id}' or 'imageflow build log {build.id}'",
            ) from None

    def layers(self) -> Sequence[Layer]:
        """The frozen disks that builds start from, newest first."""
        return self._compute.layers.list()

    def collect(self, alive: Callable[[str], bool], max_age: float, *, everything: bool = False) -> Sequence[Layer]:
        """Remove the layers past their limits, or all that no active build needs; -> the removed layers."""
        age, size = (0.0, 0.0) if everything else (max_age, self._config.layers.max_size * 2**30)
        return self._compute.layers.collect(age, size, alive)

    def _state(self, build: Build, role: str) -> MachineState:
        return self._compute.state(machine_name(build, role))

    def _records(self, build: Build) -> Path:
        return self._config.records_dir / build.id

    def _elsewhere(self, build: Build) -> bool:
        return build.host is not None and build.host != self._config.host

    def _check_here(self, build: Build) -> None:
        if not has_machine(build):
            raise Conflict(
                f"build {build.id} has no machine: its method is {build.method}",
                hint=f"see 'imageflow build log {build.id}'",
            )
        if self._elsewhere(build):
            raise Conflict(
                f"build {build.id} runs on {build.host}, and so does its machine",
                hint=f"give the same command there: ssh {build.host}",
            )

    def _instead(self, build: Build, role: str) -> str:
        """The hint for a user who wanted to log in."""
        if role == MAIN and THROW_AWAY in self.running(build):
            return f"a copy of the finished image runs: imageflow build ssh {build.id} --verify"
        if role == THROW_AWAY and MAIN in self.running(build):
            return f"the machine that it is made on runs: imageflow build ssh {build.id}"
        if build.state is BuildState.PAUSED:
            return f"'imageflow build resume {build.id}' starts it again; see 'imageflow build console {build.id}'"
        if build.state is BuildState.SUCCEEDED and build.digest:
            return f"boot the image: 'imageflow image show {build.digest[:12]}' has the command"
        if build.state.ended:
            return "create the build again; a build with 'on_failure: pause' keeps its machine when a step fails"
        return f"see 'imageflow build show {build.id}', and try again"


def has_machine(build: Build) -> bool:
    """Whether the build's method makes the image on a machine."""
    return "machine" in build.recipe


def _words(build: Build, role: str) -> str:
    return f"the machine of build {build.id}" if role == MAIN else f"the throw-away machine of build {build.id}"


def _how(build: Build, state: MachineState) -> str:
    if state is MachineState.STOPPED:
        return "is powered off"
    if state is MachineState.ERROR:
        return "has broken down: its process ended, or this host was rebooted"
    if state is MachineState.PARKED:
        return "is put away ([builds] park_after)"
    if state is MachineState.RUNNING:
        return "has no screen"
    if build.state.ended:
        return f"is gone: the build has ended ({build.state})"
    return "is not running yet" if build.started is None or build.state is BuildState.RUNNING else "is not there"
