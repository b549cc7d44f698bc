"""Reboots during a step: meant by the recipe or not, none is repeated after a crash or a resume.

A note on the host says in which boot of the machine a step began. When the machine is in another one later, it has
rebooted since, whoever looks.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imageflow.errors import CommandFailed, MachineTrouble, Unavailable
from imageflow.guest import boots
from imageflow.tasks.observer import Expect

if TYPE_CHECKING:
    from imageflow.guest.connect import SshConnection
    from imageflow.tasks.workbench import Workbench

_FILE = "step.json"
_PAUSE = 1.0  # seconds between two looks at a machine that shuts down
_ENDING = 10.0  # seconds that a command's end may come before that of the machine which it reboots


@dataclass(frozen=True, slots=True)
class Note:
    """A step in the running machine."""

    stage: str  # key of its stage
    boot: str  # boot id of the machine when it began
    ended: bool = False  # all that is left of it is the reboot
    surprises: int = 0  # reboots in it that the recipe does not mention


def read(folder: Path) -> Note | None:
    """The note in a build's folder; None when the machine was started since."""
    try:
        return Note(**json.loads((folder / _FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # the host went down while it was written
        return None


def write(folder: Path, note: Note) -> Note:
    """Keep the note."""
    aside = folder / f"{_FILE}.new"
    aside.write_text(json.dumps(asdict(note)))
    aside.rename(folder / _FILE)
    return note


def forget(folder: Path) -> None:
    """The machine starts from a layer: nothing of the step is left."""
    (folder / _FILE).unlink(missing_ok=True)


class StepBoots:
    """The boots of the machine in one step."""

    def __init__(self, bench: Workbench, stage: str, guest: SshConnection, *, meant: bool) -> None:
        """`meant`: the recipe says that the step reboots."""
        self._bench = bench
        self._guest = guest
        self._meant = meant
        self._folder = bench.work.path
        boot = boots.boot_id(guest, bench.control)
        known = read(self._folder)
        self._note = known if known is not None and known.stage == stage else Note(stage, boot)
        self._begun = known is self._note
        self._boot = boot

    def to_run(self) -> bool:
        """Whether what the step does is still to be done; records that it begins.

        Raises MachineTrouble when the machine has rebooted in it by surprise, the first time.
        """
        if self._begun and self._boot != self._note.boot:
            if not self._meant and not self._note.ended:
                surprised(self._bench, self._note, self._boot)
            self._bench.log("the machine has rebooted in this step: the step is done")
            self._note = write(self._folder, replace(self._note, boot=self._boot, ended=True))
            self._meant = False
            return False
        self._note = write(self._folder, self._note)
        return not self._note.ended

    def broken_off(self, error: Unavailable | CommandFailed) -> None:
        """Raise the error of what the step did, unless it is the reboot that the recipe means."""
        if not self._meant:
            raise error
        end = time.monotonic() + _ENDING
        while isinstance(error, CommandFailed):
            try:
                if boots.ends(self._guest, self._note.boot, self._bench.control):
                    return
            except Unavailable:
                return
            if not error.ended_from_outside or time.monotonic() > end:
                raise error
            self._bench.control.wait(_PAUSE / 2)

    def end(self) -> bool:
        """Record that the step is done, and reboot the machine if the recipe means it and it has not yet; -> whether."""
        if not self._meant:  # its own tool may have rebooted the machine, and waited for it
            boot = boots.boot_id(self._guest, self._bench.control)
            self._note = write(self._folder, replace(self._note, boot=boot, ended=True))
            return False
        self._note = write(self._folder, replace(self._note, ended=True))
        reboot(self._bench, self._guest, self._note.boot)
        self._boot = boots.boot_id(self._guest, self._bench.control)
        self._note = write(self._folder, replace(self._note, boot=self._boot))
        return True


def surprised(bench: Workbench, note: Note, boot: str) -> None:
    """Take note of a reboot that the recipe does not mention; raises MachineTrouble for the first one in a step.

    A second one in the same step shows that the step itself reboots: then it is done.
    """
    note = write(bench.work.path, replace(note, boot=boot, surprises=note.surprises + 1))
    if note.surprises < 2:
        raise MachineTrouble(
            "the machine rebooted in this step, or crashed and rebooted",
            hint="if the step is meant to, write 'reboot: true' in it (shell: {run: …, reboot: true}), or '- reboot: {}'"
            " after it. Resume runs it again in the rebooted machine; when that reboots again, the step counts as done",
        )


def reboot(bench: Workbench, guest: SshConnection, boot: str) -> None:
    """Reboot the machine unless it is in another boot already, and wait; `guest` goes on in the new boot."""
    seen = len(bench.compute.console(bench.name))
    try:
        boots.reboot(guest, boot, bench.control)
    except Unavailable:
        pass  # it reboots already
    bench.progress(0.9, "reboot")
    limit = bench.config.install.ssh
    end = time.monotonic() + limit
    while True:
        try:
            fresh = bench.connect(Expect.REBOOT, seen=seen, report=False)
        except Unavailable:
            bench.must_run()
            if time.monotonic() > end:
                raise
        else:
            guest.adopt(fresh)
            try:
                if boots.boot_id(guest, bench.control) != boot:
                    bench.log("the machine has rebooted")
                    return
            except Unavailable:
                bench.must_run()
        if time.monotonic() > end:
            raise MachineTrouble(f"the machine did not reboot within {limit:.0f} s")
        bench.control.wait(_PAUSE)
