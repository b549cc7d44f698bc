"""The host's memory and processors, shared by all machines of a state directory: first come, first served.

Every waiting machine has a ticket, a file. It counts while a worker has it locked, or for a while after the last look at it:
a build that waits holds no worker (`Control.yields`). A served ticket counts as a machine until that machine runs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from imageflow.config.building import QemuConfig
from imageflow.errors import NoRoom, Refused
from imageflow.host.control import Control
from imageflow.host.locks import locked, take

_POLL = 0.25  # seconds between two looks at the running machines
_REMIND = 60.0  # seconds after which the waiting is logged again
KEPT = 30.0  # seconds that a ticket without a worker keeps its place after the last look at it


@dataclass(frozen=True, slots=True)
class Need:
    """The host resources that a machine takes."""

    vcpus: int
    memory: int  # MiB, with QEMU itself

    def __add__(self, other: Need) -> Need:
        return Need(self.vcpus + other.vcpus, self.memory + other.memory)

    def within(self, bound: Need) -> bool:
        return self.vcpus <= bound.vcpus and self.memory <= bound.memory

    def __str__(self) -> str:
        return f"{self.vcpus} vcpus and {self.memory} MiB"


UNBOUNDED = Need(1 << 30, 1 << 50)  # only the order counts: the room is in a cloud


def bound(config: QemuConfig) -> Need:
    """The limit for all machines together."""
    memory = config.max_memory or _host_memory() * 3 // 4
    return Need(config.max_vcpus or 2 * (os.cpu_count() or 1), memory)


def check(need: Need, limit: Need) -> None:
    """Raise Refused when the need exceeds the limit."""
    if not need.within(limit):
        raise Refused(
            f"a machine of {need} (with QEMU itself) can't run here: all machines together may take {limit}",
            hint="make it smaller in the recipe, or see [qemu] max_memory and max_vcpus",
        )


def _host_memory() -> int:
    """MiB of this host, or of our control group."""
    total = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total >> 20


class Queue:
    """The queue of one folder of machines; `running` returns what every running machine takes."""

    def __init__(self, folder: Path, limit: Need, running: Callable[[], dict[str, Need]]) -> None:
        self._folder = folder
        self._limit = limit
        self._running = running

    @contextlib.contextmanager
    def turn(self, name: str, need: Need, control: Control, log: Callable[[str], None]) -> Iterator[None]:
        """Wait until there is room; the context reserves it, and afterwards the running machine does.

        Where `control` yields, raises NoRoom instead of waiting, as may the block: the ticket stays, and `look` keeps it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        ticket, descriptor = self._draw(name, need, control)
        kept = False
        try:
            told, when = "", 0.0
            while (why := self._why_wait(ticket, name, need, control)) is not None:
                line = f"machine {name} ({need}) waits: {why}"
                if why != told or time.monotonic() > when:
                    log(line)
                    told, when = why, time.monotonic() + _REMIND
                if control.yields:
                    raise no_room(name, line)
                with control.not_counted():
                    control.wait(_POLL)
            yield
        except NoRoom:
            kept = True
            self._mark(ticket, name, need, served=False, kept=True)
            raise
        finally:
            if not kept:
                ticket.unlink(missing_ok=True)
            os.close(descriptor)

    def look(self, name: str, need: Need) -> str | None:
        """Why this machine has to wait, None when there is room; it has or keeps its place for KEPT seconds.

        One that can never run waits for nothing, and stands in nobody's way: whoever starts it is told.
        """
        if not need.within(self._limit):
            self.leave(name)
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked(Control()):
            ticket = self._ticket_of(name) or self._next()
            if (descriptor := take(ticket)) is None:
                return None  # a worker starts it right now
            try:
                self._mark(ticket, name, need, served=False, kept=True)
                return self._reason(ticket, need)
            finally:
                os.close(descriptor)

    def leave(self, name: str) -> None:
        """Give up the place of a machine that is not wanted any more, if it has one."""
        if not self._folder.is_dir():
            return
        with self._locked(Control()):
            ticket = self._ticket_of(name)
            if ticket is not None and (descriptor := take(ticket)) is not None:
                ticket.unlink(missing_ok=True)
                os.close(descriptor)

    def _draw(self, name: str, need: Need, control: Control) -> tuple[Path, int]:
        with self._locked(control):
            mine = self._ticket_of(name)
            descriptor = None if mine is None else take(mine, make=False)
            if mine is None or descriptor is None:
                mine = self._next()
                descriptor = take(mine)
            assert descriptor is not None  # under the lock: no other process makes tickets now
            self._mark(mine, name, need, served=False)
            return mine, descriptor

    def _why_wait(self, mine: Path, name: str, need: Need, control: Control) -> str | None:
        with self._locked(control):
            why = self._reason(mine, need)
            if why is None:
                self._mark(mine, name, need, served=True)
            return why

    def _reason(self, mine: Path, need: Need) -> str | None:
        """Why this ticket's machine has to wait; the lock is held, and tickets that nobody needs are removed."""
        taken = self._running()
        before = 0
        for ticket in self._tickets():
            if ticket == mine:
                break
            name, other, served, seen = self._read(ticket)
            if (idle := take(ticket)) is not None:
                stale = not 0.0 <= time.monotonic() - seen < KEPT  # negative: it is from before a reboot
                if stale:
                    ticket.unlink(missing_ok=True)
                os.close(idle)
                if stale:
                    continue
            if served:
                taken.setdefault(name, other)
            else:
                before += 1
        if before and self._limit == UNBOUNDED:
            return f"{before} came before it"
        used = sum(taken.values(), Need(0, 0))
        if not before and (used + need).within(self._limit):
            return None
        text = f"{used} of {self._limit} are taken by {', '.join(sorted(taken)) or 'none'}"
        return f"{text}; {before} came before it" if before else text

    @contextlib.contextmanager
    def _locked(self, control: Control) -> Iterator[None]:
        with locked(self._folder / "lock", control):
            yield

    def _tickets(self) -> list[Path]:
        return sorted(entry for entry in self._folder.iterdir() if entry.name.isdigit())

    def _next(self) -> Path:
        last = max((int(ticket.name) for ticket in self._tickets()), default=0)
        return self._folder / f"{last + 1:010}"

    def _ticket_of(self, name: str) -> Path | None:
        return next((ticket for ticket in self._tickets() if self._read(ticket)[0] == name), None)

    def _mark(self, ticket: Path, name: str, need: Need, *, served: bool, kept: bool = False) -> None:
        """`kept`: it counts without a worker, too."""
        seen = time.monotonic() if kept else None
        ticket.write_text(
            json.dumps([name, need.vcpus, need.memory, served, seen])
        )  # rewritten in place: the lock stays

    def _read(self, ticket: Path) -> tuple[str, Need, bool, float]:
        """Name, need, whether it was served, and time.monotonic() of the last look; a damaged one is nobody's."""
        try:
            name, vcpus, memory, served, seen = json.loads(ticket.read_text())
        except (OSError, ValueError):  # its worker was killed while it wrote
            return "", Need(0, 0), False, -math.inf
        return name, Need(vcpus, memory), served, -math.inf if seen is None else seen


def no_room(name: str, message: str) -> NoRoom:
    """The error for a machine that would have to wait."""
    error = NoRoom(message)
    error.machine = name
    return error
