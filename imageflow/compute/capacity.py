"""The host's memory and processors, shared by all machines of a state directory: who comes first is served first.

Every waiter has a ticket, a locked file; the ticket of a dead one is not locked any more. A ticket that
was served counts as a machine until that runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from imageflow.compute.locks import locked, take
from imageflow.config.building import QemuConfig
from imageflow.control import Control
from imageflow.errors import Refused

_POLL = 0.25  # seconds between two looks at what runs
_REMIND = 60.0  # seconds after which the waiting is told again


@dataclass(frozen=True, slots=True)
class Need:
    """What a machine takes of the host."""

    vcpus: int
    memory: int  # MiB, with QEMU itself

    def __add__(self, other: Need) -> Need:
        return Need(self.vcpus + other.vcpus, self.memory + other.memory)

    def within(self, bound: Need) -> bool:
        return self.vcpus <= bound.vcpus and self.memory <= bound.memory

    def __str__(self) -> str:
        return f"{self.vcpus} vcpus and {self.memory} MiB"


def bound(config: QemuConfig) -> Need:
    """What all machines together may take."""
    memory = config.max_memory or _host_memory() * 3 // 4
    return Need(config.max_vcpus or 2 * (os.cpu_count() or 1), memory)


def check(need: Need, limit: Need) -> None:
    """Raise Refused when it can never be had."""
    if not need.within(limit):
        raise Refused(
            f"a machine of {need} (with QEMU itself) can't run here: all machines together may take {limit}",
            hint="make it smaller in the recipe, or see [qemu] max_memory and max_vcpus",
        )


def _host_memory() -> int:
    """MiB of this host, or of the control group that we are in."""
    total = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total >> 20


class Queue:
    """The waiters of one folder of machines; `running` says what every running machine takes."""

    def __init__(self, folder: Path, limit: Need, running: Callable[[], dict[str, Need]]) -> None:
        self._folder = folder
        self._limit = limit
        self._running = running

    @contextlib.contextmanager
    def turn(self, name: str, need: Need, control: Control, log: Callable[[str], None]) -> Iterator[None]:
        """Wait until there is room; it is kept while the context is open, and by the running machine afterwards."""
        self._folder.mkdir(parents=True, exist_ok=True)
        ticket, descriptor = self._draw(name, need, control)
        try:
            told, when = "", 0.0
            while (why := self._why_wait(ticket, need, control)) is not None:
                if why != told or time.monotonic() > when:
                    log(f"machine {name} ({need}) waits: {why}")
                    told, when = why, time.monotonic() + _REMIND
                with control.not_counted():
                    control.wait(_POLL)
            yield
        finally:
            ticket.unlink(missing_ok=True)
            os.close(descriptor)

    def _draw(self, name: str, need: Need, control: Control) -> tuple[Path, int]:
        with self._locked(control):
            last = max((int(ticket.name) for ticket in self._tickets()), default=0)
            ticket = self._folder / f"{last + 1:010}"
            descriptor = take(ticket)
            assert descriptor is not None  # nobody else makes tickets now
            self._mark(ticket, name, need, served=False)
            return ticket, descriptor

    def _why_wait(self, mine: Path, need: Need, control: Control) -> str | None:
        with self._locked(control):
            taken = self._running()
            before = 0
            for ticket in self._tickets():
                if ticket == mine:
                    break
                if (abandoned := take(ticket)) is not None:
                    ticket.unlink(missing_ok=True)
                    os.close(abandoned)
                    continue
                name, other, served = self._read(ticket)
                if served:
                    taken.setdefault(name, other)
                else:
                    before += 1
            used = sum(taken.values(), Need(0, 0))
            if not before and (used + need).within(self._limit):
                name, _, _ = self._read(mine)
                self._mark(mine, name, need, served=True)
                return None
        text = f"{used} of {self._limit} are taken by {', '.join(sorted(taken)) or 'none'}"
        return f"{text}; {before} came before it" if before else text

    @contextlib.contextmanager
    def _locked(self, control: Control) -> Iterator[None]:
        with locked(self._folder / "lock", control):
            yield

    def _tickets(self) -> list[Path]:
        return sorted(entry for entry in self._folder.iterdir() if entry.name.isdigit())

    def _mark(self, ticket: Path, name: str, need: Need, *, served: bool) -> None:
        ticket.write_text(json.dumps([name, need.vcpus, need.memory, served]))  # the same file: its lock stays

    def _read(self, ticket: Path) -> tuple[str, Need, bool]:
        name, vcpus, memory, served = json.loads(ticket.read_text())
        return name, Need(vcpus, memory), served
