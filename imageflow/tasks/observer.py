"""Watches an unattended machine: its phase, its screen, and failures it can't recover from."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from imageflow.compute import Compute, MachineState
from imageflow.config import Config
from imageflow.errors import Unavailable
from imageflow.flight import Cause, Limits, Trouble
from imageflow.flight.record import Record, masked
from imageflow.flight.watch import Watch
from imageflow.guest import Access
from imageflow.guest.connect import SshConnection, await_ssh
from imageflow.guest.login import Patience
from imageflow.host.buildlog import Log
from imageflow.host.control import Control

_LOOK = 0.5  # seconds between two looks
_QUIET = 15.0  # seconds without a word on its console and a write to its disk: it does not boot
_STANDS = Patience(refused=5.0, silent=25.0)  # then


class Expect(Enum):
    """What is known of a machine that is to be logged into, and how long it may refuse."""

    FIRST_BOOT = None  # what lets the build in may come late
    UP = Patience(refused=10.0, silent=180.0)  # it let the build in before; it may have rebooted by itself since
    NOW = Patience(refused=2.0, silent=8.0)  # it let the build in a moment ago
    REBOOT = Patience(refused=60.0, silent=float("inf"))  # it was told to reboot: it may take long to shut down


class Observer:
    """Watches one machine until it reaches the expected state."""

    def __init__(
        self, compute: Compute, name: str, config: Config, build_id: str, *, installer: bool = False, seen: int = 0
    ) -> None:
        """`installer`: it runs an installer; else it boots from its disk. `seen`: bytes of its console that are old."""
        self._compute = compute
        self._name = name
        self._config = config
        limits = Limits(stall=config.install.stall, dialog=config.install.dialog)
        self._watch = Watch(limits, installer=installer)
        self._most = int(config.builds.max_console * 2**20)
        self._record = Record(config.records_dir / build_id, name, every=config.install.screenshots, most=self._most)
        self._offset = self._seen = seen
        self._phase = ""

    def await_ssh(
        self,
        access: Access,
        control: Control,
        log: Log,
        progress: Callable[[float, str], None],
        expect: Expect = Expect.FIRST_BOOT,
    ) -> SshConnection:
        """Wait until the machine can be logged into; raises MachineTrouble as soon as the cause of a failure is known."""
        state: tuple[int, int | None] = (self._seen, self._written())
        since = time.monotonic()

        def patience() -> Patience | None:
            nonlocal state, since
            usual: Patience | None = expect.value
            if expect is not Expect.UP:
                return usual
            if (now := (self._offset, self._written())) != state:
                state, since = now, time.monotonic()
            return _STANDS if time.monotonic() - since > _QUIET else usual

        def dead() -> str | None:
            trouble = self.look(log, progress)
            if trouble is None and self._compute.state(self._name) is MachineState.STOPPED:
                return "it was powered off"
            return None if trouble is None else f"{trouble.message} ({trouble.hint})"

        try:
            limit = self._config.install.ssh
            return await_ssh(access, control=control, log=log, timeout=limit, dead=dead, patience=patience)
        finally:
            self._record.end(self._screenshot)

    def await_end(
        self, marker: str, control: Control, log: Log, progress: Callable[[float, str], None]
    ) -> Trouble | None:
        """Wait until an installer has powered the machine off; -> what went wrong, None when it reported success."""
        delay = self._compute.console_delay
        looked: float | None = None
        alive = False  # it wrote to its console since the last gap in watching, in which output may have been lost
        try:
            while True:
                control.check()
                known = self._offset
                trouble = self.look(log, progress)
                if looked is not None:  # the first look sees old output, too
                    alive = self._offset > known or (alive and time.monotonic() - looked <= delay)
                looked = time.monotonic()
                state = self._compute.state(self._name)
                if state is MachineState.STOPPED:
                    self.look(log, progress)
                    if self._watch.said(marker):
                        return None
                    return self._unseen() if delay and not alive else self._not_installed(log)
                if trouble is not None:
                    return trouble
                control.wait(_LOOK)
        finally:
            self._record.end(self._screenshot)

    def look(self, log: Log, progress: Callable[[float, str], None]) -> Trouble | None:
        """Check for news; -> why the machine can't get any further, or None."""
        state = self._compute.state(self._name)
        data = self._compute.console(self._name, self._offset)
        self._record.console(masked(data, log.clean), self._offset)
        if self._offset <= self._most < self._offset + len(data):
            log(f"its console is longer than {self._most >> 20} MiB ([builds] max_console): the rest is left out")
        self._offset += len(data)
        trouble = self._watch.see(data, self._written(), time.monotonic())
        if self._watch.phase and self._watch.phase != self._phase:
            self._phase = self._watch.phase
            log(f"phase: {self._phase}")
        progress(self._watch.fraction, self._phase)
        if trouble is not None:
            self._tell(trouble, log)
            return trouble
        if state in (MachineState.ERROR, MachineState.ABSENT):
            return Trouble(Cause.DIED, f"the machine is {state}", "its process ended, or this host was rebooted")
        self._record.screenshot(self._screenshot)
        return None

    def _tell(self, trouble: Trouble, log: Log) -> None:
        log(f"{trouble.cause}: {trouble.message}")
        for line in self._watch.last_lines(15):
            log(f"console: {line}")

    def _not_installed(self, log: Log) -> Trouble:
        trouble = Trouble(
            Cause.NOT_INSTALLED,
            "the installer powered the machine off without reporting success",
            "see the end of its console: a command of the answer file may have failed",
        )
        self._tell(trouble, log)
        return trouble

    @staticmethod
    def _unseen() -> Trouble:
        return Trouble(
            Cause.DIED,
            "it was powered off while it was not watched, so it is unknown whether the installation finished",
            "imageflow, or the cloud, was away",
        )

    def _written(self) -> int | None:
        try:
            return self._compute.activity(self._name).written
        except Unavailable:
            return None

    def _screenshot(self) -> bytes | None:
        try:
            return self._compute.screenshot(self._name)
        except Unavailable:
            return None
