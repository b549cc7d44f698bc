"""A machine's folder: its record, disks and console; made and read by any number of processes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imageflow.compute import MachineSpec
from imageflow.compute.names import checked
from imageflow.compute.qemu import account
from imageflow.compute.qemu.argv import CONSOLE, disk_file
from imageflow.host.process import Detached

_RECORD = "machine.json"
_DISK = re.compile(r"disk-(\d+)\.qcow2")


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """The stored record of a machine."""

    build_id: str
    spec: MachineSpec
    accelerator: str = ""
    cdrom: str | None = None
    run: int = 0  # number of starts so far
    process: Detached | None = None  # of the last start; None: about to be started, or shut down cleanly
    port: int | None = None  # on 127.0.0.1, for SSH
    off: bool = False  # it was shut down cleanly and its process was ended
    host_boot: str = ""  # boot id of the host when it was started
    created: float = 0.0
    parked: bool = False  # its memory is in the file `memory`, and nothing has changed its disk since
    seeded: bool | None = (
        None  # whether its hardware includes the volume of its seed; None: an older imageflow started it
    )


class Folder:
    """`site` is the folder of all machines."""

    def __init__(self, site: Path, name: str) -> None:
        self.name = name
        self.path = site / name
        self.lock = site / f".{name}.lock"
        self.console = self.path / CONSOLE
        self.output = self.path / "qemu.log"
        self.memory = self.path / "memory"  # of a parked machine

    def exists(self) -> bool:
        return self.path.is_dir()

    def make(self) -> None:
        """Make it; its QEMU may open files in it, and can neither make nor rename any: what is in it stays ours."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        if (group := account.of_machine(self.path.parent, self.name)) is not None:
            os.chown(self.path, 0, group)
            self.path.chmod(0o710)

    def monitor(self, run: int) -> str:
        """Name of the monitor's socket: each start has its own, so that starts can't be mixed up."""
        return f"monitor-{run}.sock"

    def read(self) -> MachineRecord | None:
        """The record; None when it is missing or damaged."""
        try:
            values = json.loads((self.path / _RECORD).read_bytes())
            values["spec"] = MachineSpec(**values["spec"])
            values["process"] = Detached(*values["process"]) if values["process"] else None
            return MachineRecord(**values)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, record: MachineRecord) -> MachineRecord:
        """Write the record atomically and durably."""
        new = self.path / f"{_RECORD}.new"
        with open(new, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(dataclasses.asdict(record), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path / _RECORD)
        return record

    def disks(self) -> list[int]:
        """Numbers of its disks; the last is the active one, with the others it needs as backing files."""
        names = (_DISK.fullmatch(entry.name) for entry in self.path.iterdir()) if self.exists() else ()
        return sorted(int(match[1]) for match in names if match)

    def disk(self, number: int) -> Path:
        return self.path / disk_file(number)

    def age_out(self, number: int) -> None:
        """Remove the disks before this one: those still needed are layers now."""
        for other in self.disks():
            if other < number:
                self.disk(other).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the whole folder; for other processes it disappears at once."""
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(self.path.with_name(f".{self.name}.gone-{uuid.uuid4().hex[:8]}"))
        for gone in self.path.parent.glob(f".{self.name}.gone-*"):
            shutil.rmtree(gone)

    def fresh(self, build_id: str, spec: MachineSpec) -> MachineRecord:
        return MachineRecord(build_id=build_id, spec=spec, created=time.time())


def names(site: Path) -> list[str]:
    """Names of all machines that have a folder."""
    if not site.is_dir():
        return []
    return sorted(entry.name for entry in site.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def of(site: Path, name: str) -> Folder:
    """The folder of a machine, existing or not; raises BadInput."""
    return Folder(site, checked(name))


def disks(site: Path) -> Iterator[Path]:
    """The disks of all machines."""
    for name in names(site):
        machine = Folder(site, name)
        yield from (machine.disk(number) for number in machine.disks())
