"""The machines of builds, as somebody at a terminal meets them: the way in, the console, the screen, the layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imageflow.compute import Compute, Layer, MachineState
from imageflow.config import Config
from imageflow.errors import Conflict, NotFound, Unavailable
from imageflow.flight.record import screenshots
from imageflow.guest import Access
from imageflow.model import Build, BuildState
from imageflow.workspace import MAIN, THROW_AWAY, Workspace, machine_name


@dataclass(frozen=True, slots=True)
class Picture:
    """What a screen showed."""

    png: bytes
    taken: float | None  # seconds since the epoch; None: right now


class Machines:
    """The machines that builds have on this host, by the build and their role in it."""

    def __init__(self, config: Config, compute: Compute) -> None:
        self._config = config
        self._compute = compute

    def running(self, build: Build) -> list[str]:
        """The roles of the build's machines that run, the one that it is made on first."""
        if not has_machine(build) or self._elsewhere(build):
            return []
        try:
            return [role for role in (MAIN, THROW_AWAY) if self._state(build, role) is MachineState.RUNNING]
        except Unavailable:  # a cloud that is away: nobody gets into its machines now
            return []

    def login(self, build: Build, role: str = MAIN) -> Access:
        """How to log into a machine. Raises Conflict when it doesn't run, NotFound when its keys are gone."""
        self._check_here(build)
        state = self._state(build, role)
        if state is not MachineState.RUNNING:
            raise Conflict(f"{_words(build, role)} {_how(build, state)}", hint=self._instead(build, role))
        folder = Workspace.of(build, self._config).ssh(role)
        key, known_hosts = folder / "client_key", folder / "known_hosts"
        if not key.exists():
            raise NotFound(
                f"the key of {_words(build, role)} is not there: {key}",
                hint="who may read the state directory? Else abort the build and create it again",
            )
        if not known_hosts.exists():
            raise Conflict(
                f"{_words(build, role)} has not been reached yet: nobody knows its host key",
                hint=f"it is starting; see 'imageflow build console {build.id}', and try again",
            )
        host, port = self._compute.address(machine_name(build, role))
        return Access(host, port, str(build.recipe["machine"].get("user") or "root"), key, known_hosts)

    def console(self, build: Build, role: str = MAIN, offset: int = 0) -> bytes:
        """Serial output from this byte on: the machine's, or what was recorded of it; b'' when there is none (yet)."""
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
        """What the screen shows now, else what was recorded last. Raises NotFound when there is neither."""
        self._check_here(build)
        try:
            png = self._compute.screenshot(machine_name(build, role))
        except Unavailable:  # it ended in this very moment
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

    def collect(self, alive: Callable[[str], bool], *, everything: bool = False) -> Sequence[Layer]:
        """Remove the layers that are past their limits, or all that no living build needs; -> what was removed."""
        limits = self._config.layers
        age, size = (0.0, 0.0) if everything else (limits.max_age, limits.max_size * 2**30)
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
        """The way out for somebody who wanted to log in."""
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
    if state is MachineState.RUNNING:
        return "has no screen"
    if build.state.ended:
        return f"is gone: the build has ended ({build.state})"
    return "does not run yet" if build.started is None or build.state is BuildState.RUNNING else "is not there"
