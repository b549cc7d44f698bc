"""The options of building: conductors, builds, the janitor, diskimage-builder, machines and what they leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

CONDUCTOR: list[cfg.Opt] = [
    cfg.IntOpt("max_builds", default=2, min=1, help="Builds that one conductor runs at once."),
    cfg.FloatOpt("lease", default=30.0, min=1.0, help="Seconds after which a silent conductor has lost its builds."),
    cfg.FloatOpt(
        "poll", default=0.25, min=0.05, help="Seconds between looks at the queue and at the wishes of running builds."
    ),
    cfg.FloatOpt(
        "drain_timeout",
        default=60.0,
        min=0.0,
        help="Seconds that a step may still take after SIGTERM before its build is handed back.",
    ),
]
BUILDS: list[cfg.Opt] = [
    cfg.FloatOpt("pause_ttl", default=7 * 86400.0, min=0.0, help="Seconds after which a paused build is aborted."),
    cfg.FloatOpt(
        "timeout", default=6 * 3600.0, min=1.0, help="Seconds a build may take, where its recipe does not say."
    ),
    cfg.FloatOpt(
        "step_timeout", default=2 * 3600.0, min=1.0, help="Seconds a step may take, where its recipe does not say."
    ),
]
JANITOR: list[cfg.Opt] = [
    cfg.FloatOpt("interval", default=60.0, min=0.1, help="Seconds between two rounds of the janitor."),
]
DIB: list[cfg.Opt] = [
    cfg.ListOpt(
        "elements_path",
        default=[],
        help="Folders with elements, before diskimage-builder's own; ELEMENTS_PATH is read too.",
    ),
    cfg.BoolOpt("tmpfs", default=True, help="Build in memory where there is enough of it."),
    cfg.FloatOpt("min_free", default=2.0, min=0.0, help="GiB that must be free in state_dir before a build starts."),
]
STORE: list[cfg.Opt] = [
    cfg.StrOpt(
        "driver",
        default="directory",
        help="Where images live: 'directory' (a folder) or 'glance' (the cloud of [openstack]).",
    ),
    cfg.StrOpt("path", help="Folder of the directory store; images/ in state_dir by default."),
]
COMPUTE: list[cfg.Opt] = [
    cfg.StrOpt(
        "driver",
        default="qemu",
        help="Where build machines run: 'qemu' (this host) or 'nova' (the cloud of [openstack]).",
    ),
]
QEMU: list[cfg.Opt] = [
    cfg.StrOpt(
        "accelerator",
        default="auto",
        choices=(
            ("auto", "KVM where a probe shows that it runs guests, else emulated"),
            ("kvm", "hardware virtualization"),
            ("tcg", "emulated: slow, runs everywhere"),
        ),
        help="How machines' processors are run.",
    ),
    cfg.IntOpt("max_memory", min=64, help="MiB for all machines together; three quarters of the host's by default."),
    cfg.IntOpt("max_vcpus", min=1, help="Virtual processors of all machines together; twice the host's by default."),
    cfg.StrOpt("emulator", default="qemu-system-x86_64", help="QEMU's program."),
    cfg.StrOpt("uefi_code", help="UEFI firmware (OVMF_CODE); looked for where distributions put it by default."),
    cfg.StrOpt("uefi_vars", help="Its empty variable store (OVMF_VARS)."),
]
LAYERS: list[cfg.Opt] = [
    cfg.FloatOpt("max_age", default=7 * 86400.0, min=0.0, help="Seconds after which an unused layer is removed."),
    cfg.FloatOpt(
        "max_size",
        default=40.0,
        min=0.0,
        help="GiB that all layers may take together; in a cloud, those of this imageflow's builds.",
    ),
]
INSTALL: list[cfg.Opt] = [
    cfg.FloatOpt(
        "stall", default=900.0, min=1.0, help="Seconds without serial output or disk writes that are a stall."
    ),
    cfg.FloatOpt("dialog", default=45.0, min=1.0, help="Seconds that an installer may wait at a dialog."),
    cfg.FloatOpt(
        "screenshots", default=30.0, min=1.0, help="Seconds between two screenshots of an unattended machine."
    ),
    cfg.FloatOpt("ssh", default=600.0, min=1.0, help="Seconds until a booted machine must answer over SSH."),
]
SECRETS: list[cfg.Opt] = [
    cfg.StrOpt(
        "directory",
        default="/etc/imageflow/secrets",
        help="One file per secret; IMAGEFLOW_SECRET_NAME in the environment wins.",
    ),
]
OPTIONS: list[tuple[str, list[cfg.Opt]]] = [
    ("conductor", CONDUCTOR),
    ("builds", BUILDS),
    ("janitor", JANITOR),
    ("dib", DIB),
    ("store", STORE),
    ("compute", COMPUTE),
    ("qemu", QEMU),
    ("layers", LAYERS),
    ("install", INSTALL),
    ("secrets", SECRETS),
]


@dataclass(frozen=True, slots=True)
class ConductorConfig:
    """How a conductor claims and runs builds; see the option's help for each."""

    max_builds: int
    lease: float
    poll: float
    drain_timeout: float


@dataclass(frozen=True, slots=True)
class BuildsConfig:
    """Limits of builds, in seconds."""

    pause_ttl: float
    timeout: float
    step_timeout: float


@dataclass(frozen=True, slots=True)
class DibConfig:
    """How diskimage-builder is run."""

    elements_path: tuple[Path, ...]
    tmpfs: bool
    min_free: float  # GiB


@dataclass(frozen=True, slots=True)
class QemuConfig:
    """How machines are run by QEMU."""

    accelerator: str  # auto, kvm, tcg
    max_memory: int | None  # MiB
    max_vcpus: int | None
    emulator: str
    uefi_code: Path | None
    uefi_vars: Path | None


@dataclass(frozen=True, slots=True)
class LayersConfig:
    """How long layers are kept."""

    max_age: float  # seconds
    max_size: float  # GiB


@dataclass(frozen=True, slots=True)
class InstallConfig:
    """How long an unattended machine is waited for, in seconds."""

    stall: float
    dialog: float
    screenshots: float
    ssh: float
