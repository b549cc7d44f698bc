"""Starts a machine's QEMU."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path

from imageflow.compute import Seed
from imageflow.compute.files import trouble
from imageflow.compute.qemu import account, argv, confinement, firmware, identity
from imageflow.compute.qemu import seed as seeds
from imageflow.compute.qemu.folder import Folder, MachineRecord
from imageflow.compute.qemu.network import Network
from imageflow.compute.qemu.qmp import Qmp, listening
from imageflow.config.building import QemuConfig
from imageflow.errors import NotFound, Refused, Unavailable
from imageflow.host import alive, process

_TIMEOUT = 60.0  # seconds until QEMU answers
_TRANSIENT = ("Cannot allocate memory", 'Failed to get "write" lock', "Failed to get shared")


def start(
    machine: Folder, record: MachineRecord, chosen: str, seed: Seed | None, config: QemuConfig, network: Network
) -> MachineRecord:
    """Start it from its active disk; -> the stored record. The caller holds the machine's lock."""
    with contextlib.ExitStack() as open_files:
        memory = open_files.enter_context(machine.memory.open("rb")).fileno() if record.parked else None
        return _start(machine, record, chosen, seed, config, network, memory)


def _start(
    machine: Folder,
    record: MachineRecord,
    chosen: str,
    seed: Seed | None,
    config: QemuConfig,
    network: Network,
    memory: int | None,
) -> MachineRecord:
    cdrom = None if record.cdrom is None else Path(record.cdrom)
    if cdrom is not None and not cdrom.is_file():
        raise NotFound(f"there is no file {cdrom} to boot machine {machine.name} from")
    record = _next_run(record, chosen, seed)
    for old in machine.path.glob("monitor-*.sock"):
        old.unlink(missing_ok=True)
    netdev, starts_programs = network.prepare(machine.path)
    user = account.of_machine(machine.path.parent, machine.name)
    active = machine.disks()[-1]
    account.own(machine.disk(active), machine.path.parent, machine.name)  # an earlier version left it to root
    try:
        hardware = argv.Hardware(
            spec=record.spec,
            accelerator=chosen,
            disk=active,
            cdrom=cdrom,
            seed=bool(record.seeded),
            smbios=_seed(machine, record, seed),
            firmware=_firmware(machine, record, config),
            netdev=netdev,
            confinement=confinement.words(config.emulator, user, starts_programs=starts_programs),
            memory=memory,
        )
        machine.console.touch(mode=0o600)
        machine.write(record)  # before the process exists: a process found with this mark can then be identified
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
            pass_fds=[socket.fileno(), *([] if memory is None else [memory])],
            name="QEMU",
        )
    record = _answering(machine, machine.write(dataclasses.replace(record, process=running)), running, name, before)
    seeds.remove(machine.path)  # QEMU has read it or holds it open
    return record


def _next_run(record: MachineRecord, chosen: str, seed: Seed | None) -> MachineRecord:
    return dataclasses.replace(
        record,
        accelerator=chosen,
        run=record.run + 1,
        process=None,
        port=None,
        off=False,
        host_boot=alive.boot_id(),
        seeded=seed is not None or bool(record.parked and record.seeded),
    )


def _answering(
    machine: Folder, record: MachineRecord, running: process.Detached, monitor_name: str, before: int
) -> MachineRecord:
    """Wait until QEMU answers; -> the record with the port that it has got. `before`: bytes of its output until then."""
    try:
        with Qmp(machine.path, monitor_name, _TIMEOUT) as monitor:
            return machine.write(dataclasses.replace(record, port=monitor.forwarded_port()))
    except Unavailable:
        if not identity.await_end(running, 1.0):
            raise
        raise _verdict(machine, before) from None


def _seed(machine: Folder, record: MachineRecord, seed: Seed | None) -> list[str]:
    """Write the seed; -> its files with SMBIOS strings. A parked machine's hardware has the volume, whatever is on it."""
    if seed is not None:
        return seeds.write(seed, machine.path)
    if record.seeded:
        seeds.blank(machine.path)
    return []


def _firmware(machine: Folder, record: MachineRecord, config: QemuConfig) -> firmware.Firmware | None:
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
    """The error for QEMU's last output before it ended."""
    with machine.output.open("rb") as file:
        file.seek(before)
        lines = file.read(65536).decode("utf-8", "replace").strip().splitlines()
    said = " | ".join(lines[-3:]) or "it printed nothing"
    kind = Unavailable if any(words in said for words in _TRANSIENT) else Refused
    return kind(f"QEMU did not start machine {machine.name}", hint=said)
