"""Every option of imageflow, read by oslo.config once and passed along as plain frozen records.

Order, last wins: defaults, configuration files, the environment (`OS_GROUP__OPTION`, and
`IMAGEFLOW_STATE_DIR`), the command line.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from oslo_config import cfg

from imageflow.config import clouds, traffic
from imageflow.errors import ConfigError

T = TypeVar("T")

CONFIG_FILES = ("/etc/imageflow/imageflow.conf", "~/.config/imageflow/imageflow.conf")

_DEFAULT: list[cfg.Opt] = [
    cfg.StrOpt(
        "state_dir", help="Where imageflow keeps its state; /var/lib/imageflow for root, else the XDG state directory."
    ),
    cfg.StrOpt("host", help="Name of this machine in claims and in the ledger; its host name by default."),
]
_DATABASE: list[cfg.Opt] = [
    cfg.StrOpt(
        "connection",
        secret=True,
        help="SQLAlchemy URL: sqlite:///PATH, postgresql+psycopg://…, mysql+pymysql://…; a SQLite file in state_dir by default.",
    ),
]
_CONDUCTOR: list[cfg.Opt] = [
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
_BUILDS: list[cfg.Opt] = [
    cfg.FloatOpt("pause_ttl", default=7 * 86400.0, min=0.0, help="Seconds after which a paused build is aborted."),
    cfg.FloatOpt(
        "timeout", default=6 * 3600.0, min=1.0, help="Seconds a build may take, where its recipe does not say."
    ),
    cfg.FloatOpt(
        "step_timeout", default=2 * 3600.0, min=1.0, help="Seconds a step may take, where its recipe does not say."
    ),
]
_JANITOR: list[cfg.Opt] = [
    cfg.FloatOpt("interval", default=60.0, min=0.1, help="Seconds between two rounds of the janitor."),
]
_DIB: list[cfg.Opt] = [
    cfg.ListOpt(
        "elements_path",
        default=[],
        help="Folders with elements, before diskimage-builder's own; ELEMENTS_PATH is read too.",
    ),
    cfg.BoolOpt("tmpfs", default=True, help="Build in memory where there is enough of it."),
    cfg.FloatOpt("min_free", default=2.0, min=0.0, help="GiB that must be free in state_dir before a build starts."),
]
_STORE: list[cfg.Opt] = [
    cfg.StrOpt("driver", default="directory", help="Where images live."),
    cfg.StrOpt("path", help="Folder of the directory store; images/ in state_dir by default."),
]
_COMPUTE: list[cfg.Opt] = [
    cfg.StrOpt("driver", default="qemu", help="Where build machines run."),
]
_QEMU: list[cfg.Opt] = [
    cfg.StrOpt(
        "accelerator",
        default="auto",
        choices=("auto", "kvm", "tcg"),
        help="auto: KVM where a probe shows that it runs guests, else TCG.",
    ),
    cfg.IntOpt("max_memory", min=64, help="MiB for all machines together; three quarters of the host's by default."),
    cfg.IntOpt("max_vcpus", min=1, help="Virtual processors of all machines together; twice the host's by default."),
    cfg.StrOpt("emulator", default="qemu-system-x86_64", help="QEMU's program."),
    cfg.StrOpt("uefi_code", help="UEFI firmware (OVMF_CODE); looked for where distributions put it by default."),
    cfg.StrOpt("uefi_vars", help="Its empty variable store (OVMF_VARS)."),
]
_LAYERS: list[cfg.Opt] = [
    cfg.FloatOpt("max_age", default=7 * 86400.0, min=0.0, help="Seconds after which an unused layer is removed."),
    cfg.FloatOpt("max_size", default=40.0, min=0.0, help="GiB that all layers may take together."),
]
_INSTALL: list[cfg.Opt] = [
    cfg.FloatOpt(
        "stall", default=900.0, min=1.0, help="Seconds without serial output or disk writes that are a stall."
    ),
    cfg.FloatOpt("dialog", default=45.0, min=1.0, help="Seconds that an installer may wait at a dialog."),
    cfg.FloatOpt(
        "screenshots", default=30.0, min=1.0, help="Seconds between two screenshots of an unattended machine."
    ),
    cfg.FloatOpt("ssh", default=600.0, min=1.0, help="Seconds until a booted machine must answer over SSH."),
]
_SECRETS: list[cfg.Opt] = [
    cfg.StrOpt(
        "directory",
        default="/etc/imageflow/secrets",
        help="One file per secret; IMAGEFLOW_SECRET_NAME in the environment wins.",
    ),
]


LOG = logging.getLogger(__name__)
_LOCATION = re.compile(r"LocationInfo\(location=.*?, detail=(?P<quote>['\"])(?P<place>.*?)(?P=quote)\)")


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


@dataclass(frozen=True, slots=True)
class Config:
    """All of the configuration."""

    state_dir: Path
    host: str
    database: str  # SQLAlchemy URL
    conductor: ConductorConfig
    builds: BuildsConfig
    janitor_interval: float  # seconds
    dib: DibConfig
    store: str  # name of the driver
    store_path: Path
    secrets_dir: Path
    compute: str  # name of the driver
    qemu: QemuConfig
    layers: LayersConfig
    install: InstallConfig
    listeners: tuple[str, ...]  # the names of those that are on
    events: traffic.EventsConfig
    triggers: traffic.TriggersConfig
    api: traffic.ApiConfig
    webhooks: traffic.WebhooksConfig
    notifications: traffic.NotificationsConfig
    amqp: traffic.AmqpConfig
    git: traffic.GitConfig
    gerrit: traffic.GerritConfig
    watch: traffic.WatchConfig
    announce: traffic.AnnounceConfig
    openstack: clouds.OpenStackConfig
    glance: clouds.GlanceConfig
    nova: clouds.NovaConfig
    publish: clouds.PublishConfig

    def listening(self, where: str) -> Config:
        """The same with the http listener at HOST:PORT, or without one for 'none'."""
        others = tuple(name for name in self.listeners if name != "http")
        if where == "none":
            return replace(self, listeners=others)
        return replace(self, listeners=("http", *others), api=replace(self.api, listen=where))

    @property
    def machines_dir(self) -> Path:
        """One folder per machine of the qemu driver."""
        return self.state_dir / "machines"

    @property
    def layers_dir(self) -> Path:
        """Frozen disks that machines start from."""
        return self.state_dir / "layers"

    @property
    def install_keys_dir(self) -> Path:
        """One folder per installed system: the key that its answer file lets in, as long as there are layers of it."""
        return self.state_dir / "install-keys"

    @property
    def records_dir(self) -> Path:
        """One folder per build: console output and screenshots, kept as long as its log."""
        return self.state_dir / "records"

    @property
    def builds_dir(self) -> Path:
        """One work folder per build."""
        return self.state_dir / "builds"

    @property
    def logs_dir(self) -> Path:
        """One log file per build."""
        return self.state_dir / "logs"

    @property
    def checkouts_dir(self) -> Path:
        """What recipes in git repositories are built from: one folder per repository, in it one per commit."""
        return self.state_dir / "checkouts"

    @property
    def cache_dir(self) -> Path:
        """What can be made again: archives' bootstrap tarballs, downloads."""
        return self.state_dir / "cache"


def default_state_dir() -> Path:
    """/var/lib/imageflow for root, else the XDG state directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/imageflow")
    import platformdirs

    return Path(platformdirs.user_state_dir("imageflow"))


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For oslo-config-generator: (group, options) pairs."""
    return [
        ("DEFAULT", _DEFAULT),
        ("database", _DATABASE),
        ("conductor", _CONDUCTOR),
        ("builds", _BUILDS),
        ("janitor", _JANITOR),
        ("dib", _DIB),
        ("store", _STORE),
        ("compute", _COMPUTE),
        ("qemu", _QEMU),
        ("layers", _LAYERS),
        ("install", _INSTALL),
        ("secrets", _SECRETS),
        *traffic.OPTIONS,
        *clouds.OPTIONS,
    ]


def load(files: Sequence[str] = (), state_dir: str | None = None) -> Config:
    """Read the configuration; `files` replaces the default files, `state_dir` wins over everything.

    Raises ConfigError with the option's name when a value is not usable.
    """
    conf = cfg.ConfigOpts()
    for group, options in list_opts():
        conf.register_opts(options, group=None if group == "DEFAULT" else group)
    found = list(files) or [p for f in CONFIG_FILES if os.path.exists(p := os.path.expanduser(f))]
    hint = "see etc/imageflow.conf.sample"
    try:
        conf([], project="imageflow", default_config_files=found, default_config_dirs=[])
        _check_finite(conf)
        frozen = _freeze(conf, state_dir)
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration: {', '.join(found)}: not text in UTF-8", hint=hint) from error
    except OSError as error:
        where = error.filename or "the current folder"
        raise ConfigError(f"configuration: {where}: {error.strerror}", hint=hint) from error
    except (cfg.Error, ValueError) as error:
        raise ConfigError(f"configuration: {_LOCATION.sub(_place, str(error))}", hint=hint) from error
    for place in _unknown(found):
        LOG.warning("configuration: there is no option %s; it is ignored (%s)", place, hint)
    return frozen


def _check_finite(conf: cfg.ConfigOpts) -> None:
    """'nan' and 'inf' are numbers to oslo.config, and within every bound; raises ValueError."""
    for group, options in list_opts():
        for option in options:
            if isinstance(option, cfg.FloatOpt) and not math.isfinite(value := conf[group][option.dest]):
                raise ValueError(f"[{group}] {option.name} can't be {value}")


def _unknown(files: Sequence[str]) -> list[str]:
    """What is set in these files and means nothing: a typing error, most often; oslo.config says nothing of it."""
    known = {(group, option.name) for group, options in list_opts() for option in options}
    found: list[str] = []
    for file in files:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(file, sections).parse()
        found += [
            f"[{group}] {name} ({file})"
            for group, values in sections.items()
            for name in values
            if (group if group == "DEFAULT" else group.lower(), name) not in known
        ]
    return found


def _place(match: re.Match[str]) -> str:
    return match["place"]


def _freeze(conf: cfg.ConfigOpts, state_dir: str | None) -> Config:
    given = state_dir or os.environ.get("IMAGEFLOW_STATE_DIR") or conf.state_dir or default_state_dir()
    state = Path(os.path.realpath(given))  # as the kernel names what is mounted below it: without .. and links
    return Config(
        state_dir=state,
        host=conf.host or socket.gethostname(),
        database=conf.database.connection or f"sqlite:///{state}/imageflow.db",
        conductor=_record(ConductorConfig, conf.conductor),
        builds=_record(BuildsConfig, conf.builds),
        janitor_interval=conf.janitor.interval,
        dib=DibConfig(
            elements_path=tuple(Path(p).absolute() for p in conf.dib.elements_path),
            tmpfs=conf.dib.tmpfs,
            min_free=conf.dib.min_free,
        ),
        store=conf.store.driver,
        store_path=Path(conf.store.path).absolute() if conf.store.path else state / "images",
        secrets_dir=Path(conf.secrets.directory),
        compute=conf.compute.driver,
        qemu=QemuConfig(
            accelerator=conf.qemu.accelerator,
            max_memory=conf.qemu.max_memory,
            max_vcpus=conf.qemu.max_vcpus,
            emulator=conf.qemu.emulator,
            uefi_code=Path(conf.qemu.uefi_code) if conf.qemu.uefi_code else None,
            uefi_vars=Path(conf.qemu.uefi_vars) if conf.qemu.uefi_vars else None,
        ),
        layers=_record(LayersConfig, conf.layers),
        install=_record(InstallConfig, conf.install),
        listeners=tuple(conf.listeners.enabled),
        events=_record(traffic.EventsConfig, conf.events),
        triggers=_record(traffic.TriggersConfig, conf.triggers),
        api=_record(traffic.ApiConfig, conf.api),
        webhooks=_record(traffic.WebhooksConfig, conf.webhooks),
        notifications=_record(traffic.NotificationsConfig, conf.notifications),
        amqp=_record(traffic.AmqpConfig, conf.amqp),
        git=_record(traffic.GitConfig, conf.git),
        gerrit=_record(traffic.GerritConfig, conf.gerrit),
        watch=_record(traffic.WatchConfig, conf.watch),
        announce=_record(traffic.AnnounceConfig, conf.announce),
        openstack=clouds.OpenStackConfig(
            cloud=conf.openstack.cloud,
            region=conf.openstack.region,
            clouds_yaml=Path(conf.openstack.clouds_yaml).absolute() if conf.openstack.clouds_yaml else None,
            timeout=conf.openstack.timeout,
            patience=conf.openstack.patience,
        ),
        glance=_record(clouds.GlanceConfig, conf.glance),
        nova=_record(clouds.NovaConfig, conf.nova),
        publish=_record(clouds.PublishConfig, conf.publish),
    )


def _record(kind: type[T], group: Any) -> T:
    """A record of this kind from the options of the same names."""
    values = {field.name: group[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
