"""Starts a machine's QEMU."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from imageflow import process
from imageflow.compute import Seed
from imageflow.compute.files import trouble
from imageflow.compute.qemu import accelerator, argv, disks, firmware, identity
from imageflow.compute.qemu import seed as seeds
from imageflow.compute.qemu.folder import Folder, Record
from imageflow.compute.qemu.qmp import Qmp, listening
from imageflow.config.building import QemuConfig
from imageflow.errors import NotFound, Refused, Unavailable

_TIMEOUT = 60.0  # seconds until QEMU answers
_TRANSIENT = ("Cannot allocate memory", 'Failed to get "write" lock', "Failed to get shared")


def start(machine: Folder, record: Record, chosen: str, seed: Seed | None, config: QemuConfig) -> Record:
    """Start it from its active disk; -> the record as it is stored then. The caller holds the machine's lock."""
    cdrom = None if record.cdrom is None else Path(record.cdrom)
    if cdrom is not None and not cdrom.is_file():
        raise NotFound(f"there is no file {cdrom} to boot machine {machine.name} from")
    record = dataclasses.replace(
        record,
        accelerator=chosen,
        run=record.run + 1,
        process=None,
        port=None,
        off=False,
        host_boot=accelerator.boot_id(),
    )
    for old in machine.path.glob("monitor-*.sock"):
        old.unlink(missing_ok=True)
    try:
        hardware = argv.Hardware(
            spec=record.spec,
            accelerator=chosen,
            disk=machine.disks()[-1],
            cdrom=cdrom,
            seed=seed is not None,
            smbios=[] if seed is None else seeds.write(seed, machine.path),
            firmware=_firmware(machine, record, config),
        )
        machine.console.touch(mode=0o600)
        machine.write(record)  # before there is a process: who finds one with this mark knows what it is
    except OSError as error:
        raise trouble(error, machine.path) from error
    before = machine.output.stat().st_size if machine.output.exists() else 0
    name = machine.monitor(record.run)
    with listening(machine.path, name) as socket:
        running = process.detach(
            argv.command(config.emulator, hardware, socket.fileno()),
            env=identity.environment(machine.path.parent, machine.name, record.run),
            cwd=machine.path,
            output=machine.output,
            pass_fds=[socket.fileno()],
            name="QEMU",
        )
    record = machine.write(dataclasses.replace(record, process=running))
    try:
        with Qmp(machine.path, name, _TIMEOUT) as monitor:
            record = machine.write(dataclasses.replace(record, port=disks.forwarded_port(monitor)))
    except Unavailable:
        if not identity.await_end(running, 1.0):
            raise
        raise _verdict(machine, before) from None
    seeds.remove(machine.path)  # QEMU has read it, or holds it open
    return record


def _firmware(machine: Folder, record: Record, config: QemuConfig) -> firmware.Firmware | None:
    if record.spec.firmware != "uefi":
        return None
    found = firmware.find(config)
    variables = machine.path / argv.VARIABLES
    if not variables.exists():
        new = variables.with_suffix(".new")
        shutil.copyfile(found.variables, new)
        new.replace(variables)
    return found


def _verdict(machine: Folder, before: int) -> Refused | Unavailable:
    """What QEMU said before it ended."""
    with machine.output.open("rb") as file:
        file.seek(before)
        lines = file.read(65536).decode("utf-8", "replace").strip().splitlines()
    said = " | ".join(lines[-3:]) or "it said nothing"
    kind = Unavailable if any(words in said for words in _TRANSIENT) else Refused
    return kind(f"QEMU did not start machine {machine.name}", hint=said)
