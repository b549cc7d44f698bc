"""Where build machines run: the protocol of compute drivers (entry points `imageflow.compute`).

A machine survives the worker that started it: the worker that continues the build calls `ensure` with the
same name and adopts it. The names of a build's machines begin with the build's id (`BUILD-main`).

A machine's disk grows in layers: `checkpoint` saves its content under a key, and another machine can
start from there. Layers are a cache: any of them may disappear at any time, except those held by a build.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from imageflow.background.flag import Flag
from imageflow.host.control import Control
from imageflow.model import Event

FORMATS = ("qcow2", "raw")  # formats that a machine's disk can start from


class MachineState(StrEnum):
    """The state of a machine."""

    ABSENT = "absent"  # never made, or deleted
    RUNNING = "running"
    STOPPED = "stopped"  # shut down cleanly, by its guest or by `stop`; its disk exists
    # It broke: its process died, the guest panicked unnoticed, the host was rebooted, or a full disk
    # suspended it (then `ensure` resumes it once there is space).
    ERROR = "error"
    PARKED = "parked"  # put away by `park`: it takes no memory and no processors, and `ensure` brings it back


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """A machine's hardware."""

    vcpus: int = 1
    memory: int = 1024  # MiB
    disk: int | None = None  # GiB; the size of its source, if that is larger or this is None
    firmware: str = "bios"  # bios, uefi
    reboots: bool = True  # False: a reboot of the guest powers it off, as an installer's should


@dataclass(frozen=True, slots=True)
class Source:
    """The initial content of a machine's disk."""

    path: str  # a file (qemu), the id of an image (nova)
    format: str = "qcow2"  # qcow2, raw
    layer: str | None = None  # key of the layer; None for a base


@dataclass(frozen=True, slots=True)
class Seed:
    """The data for a machine's first boot.

    On qemu a NoCloud volume (label cidata) and, for guests without cloud-init, systemd's credentials
    in the SMBIOS; on nova a config drive. It may hold private keys: no driver logs it.
    """

    user_data: str  # beginning with '#cloud-config'
    instance_id: str
    hostname: str = "imageflow"
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)  # name -> value, as systemd.exec(5) says
    public_key: str = ""  # the accepted client key, a line of authorized_keys; on nova the server's keypair


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as returned by `ensure`."""

    name: str
    state: MachineState
    process: str  # identifies this run: 'PID:START' (qemu), the server's id (nova); changes after a reboot of this host
    accelerator: str = ""  # kvm, tcg; '' if unknown


class Address(NamedTuple):
    """Where a machine's SSH server answers."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What a machine has done since it started; the counters only grow."""

    console: int  # bytes of serial output
    written: int | None  # bytes written to its disk; None if the driver can't know


@dataclass(frozen=True, slots=True)
class Layer:
    """An immutable disk that machines can start from."""

    key: str  # 64 hex digits: identifies its content (fingerprint.stage_keys)
    source: Source
    parent: str | None  # key of the layer below; None: a base
    build_id: str  # the build that made it
    title: str  # shown to operators: 'debian: packages nginx'
    created: float
    used: float  # last time a build started from it, or held it
    size: int  # its own bytes, without the layers below
    holders: tuple[str, ...] = ()  # the builds that hold it or a layer above it; set by `Layers.list`


class Layers(Protocol):
    """The layers of a driver; safe for any number of processes at once."""

    # Whether a layer after every step is almost free; otherwise they are made where the recipe says `checkpoint`.
    cheap: bool

    def find(self, key: str) -> Layer | None:
        """The newest layer with this key whose whole chain exists, or None."""

    def hold(self, key: str, build_id: str) -> Layer | None:
        """`find`, and protect it and the layers below from `collect` until `release`; idempotent."""

    def release(self, build_id: str) -> None:
        """Release all layers that the build holds; idempotent."""

    def add_base(self, key: str, file: Path, format: str, *, title: str, build_id: str, control: Control) -> Layer:
        """Add a file as the bottom of a chain, held by the build; it is linked if possible, otherwise copied.

        Idempotent: a repeated call finds the first one. Raises NoSpace, Refused (not a disk image).
        """

    def adopt(self, key: str, image: str, *, title: str, build_id: str) -> Layer | None:
        """Use an image of the cloud, by its id, as the bottom of a chain without a copy, held by the build.

        None when machines can't start from it without a copy: then its file is added by `add_base`.
        """

    def list(self) -> Sequence[Layer]:
        """All of them, newest first."""

    def collect(self, max_age: float, max_size: float, alive: Callable[[str], bool]) -> Sequence[Layer]:
        """Remove layers unused for `max_age` seconds, then the least recently used until all fit into `max_size` bytes.

        Never one that a build with `alive(build_id)` holds or a machine uses; a parent only after its children.
        Half-made layers of builds that are not alive are removed, too. -> the removed layers.
        """


class Compute(Protocol):
    """Where build machines run."""

    name: str  # the driver's name
    layers: Layers
    shared: bool  # whether other imageflow installations may have machines in the same place, see Store
    # Seconds that a guest must stay on after its last console output for that to be seen; 0 if the console is kept.
    console_delay: int

    def configured(self) -> None:
        """Raise ConfigError when required settings are missing; makes no connection."""

    def notice(self) -> str:
        """What an operator must know of machines here before they run: what is open, or what is missing; '' for nothing."""

    def watch(self, stop: Flag) -> None:
        """Keep up what keeps machines here apart, until `stop` is set; `serve` runs it in a thread."""

    def renew(self) -> None:
        """Set again what this host may have lost meanwhile; called now and then while machines may run."""

    def check(self, spec: MachineSpec) -> None:
        """Raise Refused when such a machine can never run here, with what is missing or too small."""

    def ensure(
        self,
        name: str,
        spec: MachineSpec,
        *,
        build_id: str,
        control: Control,
        log: Callable[[str], None],
        disk: Source | None = None,
        cdrom: Path | None = None,
        seed: Seed | None = None,
    ) -> Machine:
        """Find or create the machine, and make sure that it runs.

        A running one is adopted unchanged. One whose process is gone starts again from its own current disk,
        with the arguments of this call. A new one gets an empty disk of `spec.disk`, or one that starts as
        `disk` (which is never written to). With `cdrom` it boots from that, otherwise from its disk.
        A parked one goes on where it was. Waits, with a message to `log`, while other machines occupy the host's
        memory or processors; where `control` yields, raises NoRoom instead, and the machine keeps its place, see `room`.
        Raises Refused, NoSpace, Unavailable; MachineLost when a new one would have nothing to start from.
        """

    def room(self, name: str, spec: MachineSpec) -> str | None:
        """Why a machine would have to wait now, None when there is room for it; it keeps its place in the line for 30 s."""

    def park(self, name: str, control: Control, wanted: Callable[[], bool]) -> bool:
        """Put a running machine away, with its memory where the driver can; -> whether it was put away now.

        `wanted` is asked when no other process can change the machine: False leaves it as it is. So does an open login,
        where the driver sees that. Raises NoSpace, Refused, Unavailable; the machine still runs then.
        """

    def state(self, name: str) -> MachineState:
        """Its current state."""

    def heard(self, event: Event) -> None:
        """Take an event as a hint: if it is about a machine here, the next look is made at once. Nothing relies on it.

        Its sender is not trusted: its data is arbitrary JSON.
        """

    def console(self, name: str, offset: int = 0) -> bytes:
        """Serial output from this byte on, over all boots; b'' for an absent machine."""

    def screenshot(self, name: str) -> bytes | None:
        """Its screen as PNG; None when it does not run or has no screen."""

    def activity(self, name: str) -> Activity:
        """Its activity counters; raises Unavailable when it does not run."""

    def address(self, name: str) -> Address:
        """Where its SSH server will answer; raises Unavailable when it does not run."""

    def stop(self, name: str, control: Control, timeout: float = 120.0) -> None:
        """Ask the guest to power off (ACPI), wait, and power it off after `timeout` seconds; absent is fine.

        Raises Unavailable when it broke or is parked: `ensure` it first, so that its disk is consistent.
        """

    def checkpoint(
        self, name: str, key: str, *, parent: str | None, title: str, build_id: str, control: Control
    ) -> Layer:
        """Save the disk of a running or stopped machine as a layer held by the build; the machine continues on top.

        Data that the guest has not written to its disk is not included: `sync` there first. May be repeated with
        the same key as long as there was no other checkpoint in between.
        """

    def disk(self, name: str, control: Control) -> Source:
        """The stopped machine's disk, as a file that qemu-img can read until the machine is deleted."""

    def delete(self, name: str) -> None:
        """Power it off at once and remove it with its disk, if it exists; its layers stay."""

    def list(self, build_id: str | None = None) -> Sequence[str]:
        """Names of the existing machines (of this build), in any state."""
