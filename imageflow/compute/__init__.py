"""Where build machines run: the protocol that every compute driver fulfils (entry points `imageflow.compute`).

A machine survives the worker that started it: whoever goes on with the build calls `ensure` with the
same name and adopts it. The names of a build's machines begin with the build's id (`BUILD-main`).

A machine's disk grows in layers: `checkpoint` freezes what is on it under a key, and another machine
can start from there. Layers are a cache: any of them may be gone at any time, except those that a
build holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from imageflow.control import Control
from imageflow.model import Event

FORMATS = ("qcow2", "raw")  # what a machine's disk can start as


class MachineState(StrEnum):
    """How a machine is."""

    ABSENT = "absent"  # never made, or deleted
    RUNNING = "running"
    STOPPED = "stopped"  # powered off in order, by its guest or by `stop`; its disk is there
    # It broke: its process died, the guest panicked with nobody to notice, the host was rebooted, or a full
    # disk holds it up (then `ensure` lets it go on when there is space again).
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a machine is made of."""

    vcpus: int = 1
    memory: int = 1024  # MiB
    disk: int | None = None  # GiB; as large as what it starts from, if that is larger or this is None
    firmware: str = "bios"  # bios, uefi
    reboots: bool = True  # False: a reboot of the guest powers it off, as an installer's should


@dataclass(frozen=True, slots=True)
class Source:
    """What a machine's disk starts as."""

    path: str  # a file (qemu), the id of an image (nova)
    format: str = "qcow2"  # qcow2, raw
    layer: str | None = None  # key of the layer that this is, None for a base


@dataclass(frozen=True, slots=True)
class Seed:
    """What a machine is told at its first boot.

    On qemu a NoCloud volume (label cidata) and, for guests without cloud-init, systemd's credentials
    in the SMBIOS; on nova a config drive. It may hold private keys: no driver logs it.
    """

    user_data: str  # beginning with '#cloud-config'
    instance_id: str
    hostname: str = "imageflow"
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)  # name -> value, as systemd.exec(5) says
    public_key: str = ""  # whom it lets in, a line of authorized_keys; on nova the server's keypair


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as `ensure` left it."""

    name: str
    state: MachineState
    process: (
        str  # which run of it this is: 'PID:START' (qemu), the server's id (nova); another one after a reboot of ours
    )
    accelerator: str = ""  # kvm, tcg; '' where nobody can know


class Address(NamedTuple):
    """Where a machine's SSH server answers."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What a machine has done since it started; each only grows."""

    console: int  # bytes of serial output
    written: int | None  # bytes written to its disk; None where the driver can't know


@dataclass(frozen=True, slots=True)
class Layer:
    """A frozen disk that machines can start from."""

    key: str  # 64 hex digits: what is on it (fingerprint.stage_keys)
    source: Source
    parent: str | None  # key of the layer it stands on; None: a base
    build_id: str  # who made it
    title: str  # what an operator reads: 'debian: packages nginx'
    created: float
    used: float  # last time a build started from it, or held it
    size: int  # bytes of its own, without what it stands on
    holders: tuple[str, ...] = ()  # the builds that hold it, or something that stands on it; `Layers.list` says it


class Layers(Protocol):
    """The layers of a driver; safe for any number of processes at once."""

    # Whether a layer after every step costs next to nothing; else they are made where the recipe says `checkpoint`.
    cheap: bool

    def find(self, key: str) -> Layer | None:
        """The newest layer with this key whose whole chain is there, or None."""

    def hold(self, key: str, build_id: str) -> Layer | None:
        """`find`, and neither it nor what it stands on is collected until `release`; again is fine."""

    def release(self, build_id: str) -> None:
        """The build needs its layers no more; again is fine."""

    def add_base(self, key: str, file: Path, format: str, *, title: str, build_id: str, control: Control) -> Layer:
        """Take a file in as the bottom of a chain, held by the build; it is linked where possible, else copied.

        Again is fine, and finds the first one. Raises NoSpace, Refused (not a disk image).
        """

    def adopt(self, key: str, image: str, *, title: str, build_id: str) -> Layer | None:
        """Let an image of the cloud, by its id, be the bottom of a chain as it is, held by the build.

        None where machines can't start from it without a copy: then its file is taken in by `add_base`.
        """

    def list(self) -> Sequence[Layer]:
        """All of them, newest first."""

    def collect(self, max_age: float, max_size: float, alive: Callable[[str], bool]) -> Sequence[Layer]:
        """Remove those not used for `max_age` seconds, then the longest unused until all are within `max_size` bytes.

        Never one that a build holds which is `alive(build_id)`, or that a machine stands on; a parent only after its
        children. Half-made ones of builds that are not alive go too. -> what was removed.
        """


class Compute(Protocol):
    """Where build machines run."""

    name: str  # of the driver
    layers: Layers
    shared: bool  # whether others than this imageflow may have machines in the same place, see Store
    # Seconds that a guest has to stay on after what it says last, for it to be seen: 0 where the console is kept.
    console_delay: int

    def configured(self) -> None:
        """Raise ConfigError when something is missing that it needs to reach its place; nothing is reached."""

    def check(self, spec: MachineSpec) -> None:
        """Raise Refused when such a machine can never run here, saying what is missing or too small."""

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
        """Find or create the machine, and see that it runs.

        One that runs is adopted as it is. One whose process is gone starts again from its own disk, as it
        is now, with the arguments given now. A new one gets an empty disk of `spec.disk`, or one that
        starts as `disk` (which is never written to). With `cdrom` it boots from that, else from its disk.
        Waits while the host's memory or processors are taken by other machines, and says so to `log`.
        Raises Refused, NoSpace, Unavailable; MachineLost where a new one would have nothing to start from.
        """

    def state(self, name: str) -> MachineState:
        """How it is now."""

    def heard(self, event: Event) -> None:
        """An event came; where it tells of a machine here, looks see that at once. Nothing relies on such words.

        Anybody may have sent it: its data is any JSON.
        """

    def console(self, name: str, offset: int = 0) -> bytes:
        """Serial output from this byte on, all its boots in one; b'' for an absent machine."""

    def screenshot(self, name: str) -> bytes | None:
        """What its screen shows, as PNG; None when it does not run or has none."""

    def activity(self, name: str) -> Activity:
        """How much it has done; raises Unavailable when it does not run."""

    def type(self, name: str, keys: Sequence[str]) -> None:
        """Press keys on its keyboard, one after the other: QEMU's names, 'ret', 'ctrl-alt-f2'; Refused where that can't be."""

    def address(self, name: str) -> Address:
        """Where its SSH server will answer; raises Unavailable when it does not run."""

    def boot_disk(
        self, name: str, *, control: Control, log: Callable[[str], None], seed: Seed | None = None
    ) -> Machine:
        """The installer is done: start the (stopped) machine from its disk, without the CD; reboots are allowed from now on.

        Running from its disk already is fine.
        """

    def stop(self, name: str, control: Control, timeout: float = 120.0) -> None:
        """Ask the guest to power off (ACPI), wait, and power it off after `timeout` seconds; absent is fine.

        Raises Unavailable when it broke: `ensure` it first, so that its disk is in order.
        """

    def checkpoint(
        self, name: str, key: str, *, parent: str | None, title: str, build_id: str, control: Control
    ) -> Layer:
        """Freeze the disk of a machine, running or stopped, as a layer held by the build; it goes on on top of it.

        What the guest has not written to its disk is not in it: `sync` there first. Again with the same
        key is fine as long as no other checkpoint came in between.
        """

    def disk(self, name: str, control: Control) -> Source:
        """The stopped machine's disk, as a file that qemu-img can read until the machine is deleted."""

    def delete(self, name: str) -> None:
        """Power it off at once and remove it with its disk; absent is fine, its layers stay."""

    def list(self, build_id: str | None = None) -> Sequence[str]:
        """Names of the machines that are there (of this build), in any state but absent."""
