"""The command line of a machine's QEMU. Names without a folder are in the machine's folder, QEMU's working directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imageflow.compute import MachineSpec
from imageflow.compute.qemu import accelerator, seed
from imageflow.compute.qemu.firmware import Firmware

CONSOLE = "console.log"
VARIABLES = "uefi-variables"
DISK_DEVICE = "disk"
_UNSAFE = {"no-flush": True}  # a machine's disk need not survive a power loss of the host; its layers do
# For guests that need x86-64-v2 or -v3; five-level page tables only cost time in an emulator.
_CPUS = {accelerator.KVM: "host", accelerator.TCG: "max,la57=off"}


@dataclass(frozen=True, slots=True)
class Hardware:
    """The hardware of one start of a machine."""

    spec: MachineSpec
    accelerator: str
    disk: int  # number of the active disk
    cdrom: Path | None
    seed: bool
    smbios: Sequence[str]  # files of OEM strings
    firmware: Firmware | None
    netdev: str  # its user network
    confinement: Sequence[str]  # what QEMU itself must not do
    memory: int | None = None  # descriptor of a parked machine's memory: it is loaded, and the machine stays paused


def disk_file(number: int) -> str:
    """Name of a disk in its machine's folder; the highest number is the active one."""
    return f"disk-{number}.qcow2"


def disk_node(number: int) -> str:
    """QEMU's name for a disk."""
    return f"disk-{number}"


def disk_options(number: int) -> dict[str, object]:
    """How QEMU opens a disk, for -blockdev and blockdev-add."""
    file = {"driver": "file", "filename": disk_file(number), "discard": "unmap", "cache": _UNSAFE}
    return {
        "driver": "qcow2",
        "node-name": disk_node(number),
        "discard": "unmap",
        "detect-zeroes": "unmap",
        "cache": _UNSAFE,
        "file": file,
    }


def translation_cache(spec: MachineSpec) -> int:
    """MiB that TCG may take for translated code."""
    return max(64, min(512, spec.memory // 2))


def memory_need(spec: MachineSpec, accelerator_name: str) -> int:
    """MiB of host memory that a machine may take, QEMU included."""
    return spec.memory + 64 + (translation_cache(spec) if accelerator_name == accelerator.TCG else 0)


def command(emulator: str, hardware: Hardware, monitor: int) -> list[str]:
    """`monitor` is the descriptor of a listening socket."""
    spec = hardware.spec
    accel = hardware.accelerator
    if accel == accelerator.TCG:
        accel += f",thread=multi,tb-size={translation_cache(spec)}"
    # graphics=off: the BIOS also writes to the serial console; there still is a VGA card
    machine = "pc,graphics=off"
    words: list[str] = []
    if hardware.firmware is not None:
        machine += ",pflash0=uefi-code,pflash1=uefi-variables"
        code, code_format, _, variables_format = hardware.firmware
        words += _block("uefi-code", code_format, str(code), read_only=True)
        words += _block("uefi-variables", variables_format, VARIABLES, read_only=False)
    words += ["-blockdev", json.dumps(disk_options(hardware.disk))]
    order = 1
    if hardware.cdrom is not None:
        words += _block("cdrom", "raw", str(hardware.cdrom), read_only=True)
        words += ["-device", f"ide-cd,id=cdrom,drive=cdrom,bootindex={order}"]
        order += 1
    words += ["-device", f"virtio-blk-pci,id={DISK_DEVICE},drive={disk_node(hardware.disk)},bootindex={order}"]
    if hardware.seed:
        words += _block("seed", "raw", seed.VOLUME, read_only=True)
        words += ["-device", f"virtio-blk-pci,id=seed,drive=seed,serial={seed.LABEL}"]
    for file in hardware.smbios:
        words += ["-smbios", f"type=11,path={file}"]
    if hardware.memory is not None:
        words += ["-incoming", f"fd:{hardware.memory}", "-S"]
    return [
        *(emulator, "-nodefaults", "-no-user-config", "-display", "none", "-rtc", "base=utc"),
        *("-machine", machine, "-accel", accel, "-cpu", _CPUS[hardware.accelerator]),
        *("-m", str(spec.memory), "-smp", str(spec.vcpus), "-boot", "strict=on"),
        # QEMU stays when its guest powers off or panics, so that it can be queried.
        *("-action", f"shutdown=pause,panic=pause,reboot={'reset' if spec.reboots else 'shutdown'}"),
        *("-chardev", f"socket,id=monitor,fd={monitor},server=on,wait=off", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"file,id=console,path={CONSOLE},append=on", "-serial", "chardev:console"),
        *("-netdev", hardware.netdev, *hardware.confinement),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        *("-device", "virtio-rng-pci", "-device", "VGA", "-device", "pvpanic"),
        *words,
    ]


def _block(name: str, format: str, file: str, *, read_only: bool) -> list[str]:
    """A disk given as JSON: no character of a file name is special there."""
    options = {"driver": "file", "filename": file, "read-only": read_only}
    return ["-blockdev", json.dumps({"driver": format, "node-name": name, "read-only": read_only, "file": options})]
