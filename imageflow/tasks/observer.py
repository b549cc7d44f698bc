"""Watches a machine that nobody sits at: its phase, its screen, and what it will never get over."""

from __future__ import annotations

import time
from collections.abc import Callable

from imageflow.compute import Compute, MachineState
from imageflow.config import Config
from imageflow.control import Control
from imageflow.errors import Unavailable
from imageflow.flight import Cause, Limits, Trouble
from imageflow.flight.record import Record, masked
from imageflow.flight.watch import Watch
from imageflow.guest import Access
from imageflow.guest.connect import Connection, await_ssh

_LOOK = 0.5  # seconds between two looks


class Observer:
    """Looks at one machine, until it has come to where it should be."""

    def __init__(
        self, compute: Compute, name: str, config: Config, build_id: str, *, installer: bool = False, seen: int = 0
    ) -> None:
        """`installer`: it installs itself; else it boots what is on its disk. `seen`: bytes of its console that are old."""
        self._compute = compute
        self._name = name
        self._config = config
        limits = Limits(stall=config.install.stall, dialog=config.install.dialog)
        self._watch = Watch(limits, installer=installer)
        self._record = Record(config.records_dir / build_id, name, every=config.install.screenshots)
        self._offset = seen
        self._phase = ""

    def await_ssh(
        self,
        access: Access,
        control: Control,
        log: Callable[[str], None],
        progress: Callable[[float, str], None],
    ) -> Connection:
        """Wait until the machine can be worked in; raises MachineTrouble with the cause, as soon as it is known."""

        def dead() -> str | None:
            trouble = self.look(log, progress)
            if trouble is None and self._compute.state(self._name) is MachineState.STOPPED:
                return "it was powered off"
            return None if trouble is None else f"{trouble.message} ({trouble.hint})"

        try:
            return await_ssh(access, control=control, log=log, timeout=self._config.install.ssh, dead=dead)
        finally:
            self._record.end(self._screenshot)

    def await_end(
        self, marker: str, control: Control, log: Callable[[str], None], progress: Callable[[float, str], None]
    ) -> Trouble | None:
        """Wait until an installer has powered the machine off; -> what went wrong, None when it said that it is done."""
        delay = self._compute.console_delay
        looked: float | None = None
        alive = False  # it has said something since nobody looked for so long that its last words may be lost
        try:
            while True:
                control.check()
                known = self._offset
                trouble = self.look(log, progress)
                if looked is not None:  # the first look is at old words, too
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

    def look(self, log: Callable[[str], None], progress: Callable[[float, str], None]) -> Trouble | None:
        """See what is new; -> why the machine will not get any further, or None."""
        state = self._compute.state(self._name)
        data = self._compute.console(self._name, self._offset)
        self._record.console(masked(data, log), self._offset)
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

    def _tell(self, trouble: Trouble, log: Callable[[str], None]) -> None:
        log(f"{trouble.cause}: {trouble.message}")
        for line in self._watch.last_lines(15):
            log(f"console: {line}")

    def _not_installed(self, log: Callable[[str], None]) -> Trouble:
        trouble = Trouble(
            Cause.NOT_INSTALLED,
            "the installer powered the machine off and never said that it was done",
            "see the end of its console: a command of the answer file may have failed",
        )
        self._tell(trouble, log)
        return trouble

    @staticmethod
    def _unseen() -> Trouble:
        return Trouble(
            Cause.DIED,
            "it was powered off while nobody looked, and whether the installer was done can't be seen any more",
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
