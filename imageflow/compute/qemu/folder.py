"""A machine's folder: its record, its disks, its console; made and read by any number of processes."""

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
from imageflow.compute.qemu.argv import CONSOLE, disk_file
from imageflow.process import Detached

_RECORD = "machine.json"
_DISK = re.compile(r"disk-(\d+)\.qcow2")


@dataclass(frozen=True, slots=True)
class Record:
    """What is stored of a machine."""

    build_id: str
    spec: MachineSpec
    accelerator: str = ""
    cdrom: str | None = None
    run: int = 0  # times that it was started
    process: Detached | None = None  # of the last start; None: it was about to be started, or was ended in order
    port: int | None = None  # on 127.0.0.1, for SSH
    off: bool = False  # it was powered off in order, and its process was ended
    host_boot: str = ""  # boot id of the host when it was started
    created: float = 0.0


class Folder:
    """`site` is the folder of all machines."""

    def __init__(self, site: Path, name: str) -> None:
        self.name = name
        self.path = site / name
        self.lock = site / f".{name}.lock"
        self.console = self.path / CONSOLE
        self.output = self.path / "qemu.log"

    def exists(self) -> bool:
        return self.path.is_dir()

    def monitor(self, run: int) -> str:
        """Name of the monitor's socket: each start has its own, so that two starts can't be mixed up."""
        return f"monitor-{run}.sock"

    def read(self) -> Record | None:
        """None when there is none, or it is damaged."""
        try:
            values = json.loads((self.path / _RECORD).read_bytes())
            values["spec"] = MachineSpec(**values["spec"])
            values["process"] = Detached(*values["process"]) if values["process"] else None
            return Record(**values)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, record: Record) -> Record:
        """Atomically, and on the disk when it returns."""
        new = self.path / f"{_RECORD}.new"
        with new.open("w") as file:
            json.dump(dataclasses.asdict(record), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path / _RECORD)
        return record

    def disks(self) -> list[int]:
        """Numbers of its disks; the last is the active one: it stands on all others that it needs."""
        names = (_DISK.fullmatch(entry.name) for entry in self.path.iterdir()) if self.exists() else ()
        return sorted(int(match[1]) for match in names if match)

    def disk(self, number: int) -> Path:
        return self.path / disk_file(number)

    def age_out(self, number: int) -> None:
        """Remove the disks before this one: what of them is needed is a layer now."""
        for other in self.disks():
            if other < number:
                self.disk(other).unlink(missing_ok=True)

    def remove(self) -> None:
        """All of it; it is gone at once for everybody else."""
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(self.path.with_name(f".{self.name}.gone-{uuid.uuid4().hex[:8]}"))
        for gone in self.path.parent.glob(f".{self.name}.gone-*"):
            shutil.rmtree(gone)

    def fresh(self, build_id: str, spec: MachineSpec) -> Record:
        return Record(build_id=build_id, spec=spec, created=time.time())


def names(site: Path) -> list[str]:
    """Of all machines that have a folder."""
    if not site.is_dir():
        return []
    return sorted(entry.name for entry in site.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def of(site: Path, name: str) -> Folder:
    """The folder of a machine, there or not; raises BadInput."""
    return Folder(site, checked(name))


def disks(site: Path) -> Iterator[Path]:
    """Of all machines."""
    for name in names(site):
        machine = Folder(site, name)
        yield from (machine.disk(number) for number in machine.disks())
