"""The options of building: conductors, builds, the janitor, diskimage-builder, stores, machines and layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

CONDUCTOR: list[cfg.Opt] = [
    cfg.IntOpt("max_builds", default=2, min=1, help="Builds that one conductor runs at once."),
    cfg.FloatOpt(
        "lease",
        default=12.0,
        min=1.0,
        help="Seconds of silence after which another conductor may take over a conductor's builds; it renews its claims five times as often.",
    ),
    cfg.FloatOpt(
        "poll", default=0.25, min=0.05, help="Seconds between looks at the queue and at requests to running builds."
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
        "park_after",
        default=600.0,
        min=0.0,
        help="Seconds after which the machine of a paused build is put away, so that others may use its memory and processors: on this host its memory goes into a file in state_dir, in a cloud it is shelved. Resuming the build brings it back.",
    ),
    cfg.FloatOpt(
        "timeout", default=6 * 3600.0, min=1.0, help="Seconds a build may take, unless its recipe sets a limit."
    ),
    cfg.FloatOpt(
        "step_timeout", default=2 * 3600.0, min=1.0, help="Seconds a step may take, unless its recipe sets a limit."
    ),
    cfg.FloatOpt("max_log", default=64.0, min=0.1, help="MiB of a build's log; what is said afterwards is left out."),
    cfg.FloatOpt(
        "max_console",
        default=32.0,
        min=0.1,
        help="MiB of a machine's console, and of its screenshots; what it writes afterwards is left out.",
    ),
    cfg.FloatOpt(
        "retention",
        default=90 * 86400.0,
        min=0.0,
        help="Seconds that an ended build is kept, with its steps and its log. Kept for longer: the newest build and the newest "
        "successful one of each image, and those of the versions that exist.",
    ),
    cfg.IntOpt(
        "max_count", default=20_000, min=1, help="How many ended builds are kept; the oldest go before their time."
    ),
    cfg.FloatOpt(
        "max_logs",
        default=10.0,
        min=0.01,
        help="GiB of the logs and consoles of ended builds on one host; the oldest go before their time.",
    ),
]
JANITOR: list[cfg.Opt] = [
    cfg.FloatOpt("interval", default=60.0, min=0.1, help="Seconds between two rounds of the janitor."),
]
DIB: list[cfg.Opt] = [
    cfg.ListOpt(
        "elements_path",
        default=[],
        help="Folders with elements, searched before diskimage-builder's own; ELEMENTS_PATH is read, too.",
    ),
    cfg.BoolOpt("tmpfs", default=True, help="Build in memory if there is enough."),
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
            ("auto", "KVM if a probe shows that it runs guests, otherwise emulation"),
            ("kvm", "hardware virtualization"),
            ("tcg", "emulation: slow, runs everywhere"),
        ),
        help="How the machines' processors are run.",
    ),
    cfg.IntOpt("max_memory", min=64, help="MiB for all machines together; three quarters of the host's by default."),
    cfg.IntOpt("max_vcpus", min=1, help="Virtual processors of all machines together; twice the host's by default."),
    cfg.StrOpt("emulator", default="qemu-system-x86_64", help="QEMU's program."),
    cfg.StrOpt("uefi_code", help="UEFI firmware (OVMF_CODE); by default searched where distributions install it."),
    cfg.StrOpt("uefi_vars", help="Its empty variable store (OVMF_VARS)."),
    cfg.StrOpt(
        "network",
        default="auto",
        choices=(
            ("auto", "filtered where imageflow is root and has nftables, otherwise restricted"),
            ("filtered", "guests reach the internet and what 'allow' names, and nothing else"),
            ("restricted", "guests reach only what 'allow' names, each host at an address of 10.0.2.100-199"),
            ("open", "guests reach whatever this host reaches, its own services on loopback included"),
        ),
        help="What guests can reach.",
    ),
    cfg.ListOpt(
        "allow",
        default=["mirrors"],
        help="What guests may reach besides the internet: HOST, HOST:PORT, ADDRESS/PREFIX, ADDRESS/PREFIX:PORT; 'mirrors': the package mirrors and proxies that this host is configured with. A guest finds services on this host's loopback at 10.0.2.2.",
    ),
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
        "stall", default=900.0, min=1.0, help="Seconds without serial output or disk writes that count as a stall."
    ),
    cfg.FloatOpt("dialog", default=45.0, min=1.0, help="Seconds that an installer may wait at a dialog."),
    cfg.FloatOpt(
        "screenshots", default=30.0, min=1.0, help="Seconds between two screenshots of an unattended machine."
    ),
    cfg.FloatOpt("ssh", default=600.0, min=1.0, help="Seconds until a booted machine must answer over SSH."),
]
DOWNLOADS: list[cfg.Opt] = [
    cfg.FloatOpt("max_size", default=64.0, min=0.001, help="GiB of one download: a base image, an ISO."),
    cfg.FloatOpt(
        "min_free", default=2.0, min=0.0, help="GiB that stay free where downloads and checkouts are written."
    ),
    cfg.ListOpt(
        "allow",
        default=["mirrors"],
        help="What URLs in recipes, and redirects of their servers, may lead to besides the internet: HOST, HOST:PORT, ADDRESS/PREFIX, ADDRESS/PREFIX:PORT; 'mirrors': the package mirrors and proxies that this host is configured with.",
    ),
]
SECRETS: list[cfg.Opt] = [
    cfg.StrOpt(
        "directory",
        default="/etc/imageflow/secrets",
        help="One file per secret; IMAGEFLOW_SECRET_NAME in the environment wins.",
    ),
]
RECIPES: list[cfg.Opt] = [
    cfg.ListOpt(
        "repositories",
        default=["*"],
        help="Recipes may be followed in these repositories, and may poll these: URLs, with * for anything.",
    ),
    cfg.ListOpt(
        "elements",
        default=["*", "repository:*"],
        help="Elements that a recipe from git may name, with * for anything: they run as root on the host that builds. "
        "NAME is one of diskimage-builder's or in [dib] elements_path, repository:NAME one in the repository itself.",
    ),
    cfg.ListOpt(
        "environment",
        default=["*"],
        help="Variables that a recipe from git may set for diskimage-builder, with * for anything.",
    ),
    cfg.ListOpt(
        "steps",
        default=["*"],
        help="Kinds of configure steps that a recipe from git may have, such as packages. "
        "All but ansible run in the image only; a playbook can run commands on the host that builds.",
    ),
    cfg.ListOpt(
        "files",
        default=[],
        help="Files and folders outside its repository that a recipe from git may name as base, as iso, or to be watched.",
    ),
    cfg.MultiStrOpt(
        "secrets",
        default=[],
        help="RECIPE: SECRET SECRET …, with * for anything: more secrets that a recipe from git may use. "
        "PROJECT and PROJECT/RECIPE may always use the secrets PROJECT.NAME. Can be repeated.",
    ),
    cfg.StrOpt(
        "signed_by",
        help="Take only commits that are signed by a key in this allowed_signers file of ssh-keygen, or, if it is a folder, "
        "in this GnuPG keyring.",
    ),
    cfg.BoolOpt(
        "local",
        default=False,
        help="Hold recipes that 'recipe add' takes from files to these lists, too; their repository is their folder.",
    ),
]
CATALOG: list[cfg.Opt] = [
    cfg.StrOpt(
        "path",
        default="/etc/imageflow/catalog",
        help="Folder with a file OS.yaml for each 'os' that a want may name: what it stands for; see doc/api.md.",
    ),
    cfg.ListOpt(
        "projects",
        default=[],
        help="Projects that may request images besides that of [api] project; '*': all. Whoever asks for the same gets the "
        "same image, so they share what they ask for.",
    ),
    cfg.BoolOpt(
        "dib",
        default=False,
        help="Whether entries may have the method dib. Their images are made in a folder of the build host, in which programs "
        "run as root: whoever may request images could become root there.",
    ),
    cfg.FloatOpt(
        "fresh",
        default=60.0,
        min=0.0,
        help="Seconds for which the inputs of an image that was just asked for are not looked at again.",
    ),
    cfg.IntOpt("max_requests", default=10_000, min=1, help="Requests that one project may have."),
    cfg.FloatOpt(
        "unheld",
        default=30 * 86400.0,
        min=0.0,
        help="Seconds after which a version of a want is deleted that no request has held since.",
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
    ("downloads", DOWNLOADS),
    ("secrets", SECRETS),
    ("recipes", RECIPES),
    ("catalog", CATALOG),
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
    park_after: float
    timeout: float
    step_timeout: float
    max_log: float  # MiB
    max_console: float  # MiB
    retention: float
    max_count: int
    max_logs: float  # GiB


@dataclass(frozen=True, slots=True)
class DibConfig:
    """How diskimage-builder is run."""

    elements_path: tuple[Path, ...]
    tmpfs: bool
    min_free: float  # GiB


@dataclass(frozen=True, slots=True)
class RecipesConfig:
    """What recipes from git may do; see the option's help for each."""

    repositories: tuple[str, ...]
    elements: tuple[str, ...]
    environment: tuple[str, ...]
    steps: tuple[str, ...]
    files: tuple[str, ...]
    secrets: tuple[str, ...]
    signed_by: str | None
    local: bool


@dataclass(frozen=True, slots=True)
class CatalogConfig:
    """What may be asked for by its content; see the option's help for each."""

    path: Path
    projects: tuple[str, ...]
    dib: bool
    fresh: float  # seconds
    max_requests: int
    unheld: float  # seconds


@dataclass(frozen=True, slots=True)
class QemuConfig:
    """How machines are run by QEMU."""

    accelerator: str  # auto, kvm, tcg
    max_memory: int | None  # MiB
    max_vcpus: int | None
    emulator: str
    uefi_code: Path | None
    uefi_vars: Path | None
    network: str  # auto, filtered, restricted, open
    allow: tuple[str, ...]  # imageflow/host/addresses.py


@dataclass(frozen=True, slots=True)
class LayersConfig:
    """How long layers are kept."""

    max_age: float  # seconds
    max_size: float  # GiB


@dataclass(frozen=True, slots=True)
class DownloadsConfig:
    """Where URLs of recipes may lead, and how much may come from there."""

    max_size: float  # GiB
    min_free: float  # GiB
    allow: tuple[str, ...]  # imageflow/host/addresses.py


@dataclass(frozen=True, slots=True)
class InstallConfig:
    """How long an unattended machine is waited for, in seconds."""

    stall: float
    dialog: float
    screenshots: float
    ssh: float
