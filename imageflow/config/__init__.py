"""All options of imageflow, read once by oslo.config and passed on as plain frozen records.

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

from imageflow.config import building, clouds, traffic
from imageflow.errors import ConfigError

T = TypeVar("T")

CONFIG_FILES = ("/etc/imageflow/imageflow.conf", "~/.config/imageflow/imageflow.conf")

_DEFAULT: list[cfg.Opt] = [
    cfg.StrOpt(
        "state_dir",
        help="Where imageflow keeps its state; /var/lib/imageflow for root, otherwise the XDG state directory.",
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

_FOREIGN = ("keystone_authtoken", "oslo_policy")  # groups whose options libraries define: see access/options.py
_IMPATIENT = 10.0  # seconds of retries against a cloud for a user at a terminal
LOG = logging.getLogger(__name__)
_LOCATION = re.compile(r"LocationInfo\(location=.*?, detail=(?P<quote>['\"])(?P<place>.*?)(?P=quote)\)")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    files: tuple[str, ...]  # that were read: libraries with options of their own read them, too
    state_dir: Path
    host: str
    database: str  # SQLAlchemy URL
    conductor: building.ConductorConfig
    builds: building.BuildsConfig
    janitor_interval: float  # seconds
    dib: building.DibConfig
    store: str  # name of the driver
    store_path: Path
    secrets_dir: Path
    recipes: building.RecipesConfig
    catalog: building.CatalogConfig
    compute: str  # name of the driver
    qemu: building.QemuConfig
    layers: building.LayersConfig
    install: building.InstallConfig
    downloads: building.DownloadsConfig
    listeners: tuple[str, ...]  # names of the enabled ones
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
        """The configuration with the http listener at HOST:PORT, or without one for 'none'."""
        others = tuple(name for name in self.listeners if name != "http")
        if where == "none":
            return replace(self, listeners=others)
        return replace(self, listeners=("http", *others), api=replace(self.api, listen=where))

    @property
    def impatient(self) -> Config:
        """The configuration for a user at a terminal, who does not wait long for an unreachable cloud."""
        cloud = self.openstack
        return replace(self, openstack=replace(cloud, patience=min(_IMPATIENT, cloud.patience)))

    @property
    def events_token_file(self) -> Path:
        """The token of POST /v1/events, when none is configured."""
        return self.state_dir / "events-token"

    @property
    def machine_architecture(self) -> str:
        """The architecture of build machines, as QEMU calls it; '' where a cloud decides."""
        _, system, architecture = self.qemu.emulator.rpartition("-system-")
        return architecture if self.compute == "qemu" and system else ""

    @property
    def machines_dir(self) -> Path:
        """One folder per machine of the qemu driver."""
        return self.state_dir / "machines"

    @property
    def layers_dir(self) -> Path:
        """Saved disks that machines start from."""
        return self.state_dir / "layers"

    @property
    def install_keys_dir(self) -> Path:
        """One folder per installed system: the key authorized by its answer file, kept as long as it has layers."""
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
        """Checkouts of recipes in git repositories: one folder per repository, with one per commit."""
        return self.state_dir / "checkouts"

    @property
    def cache_dir(self) -> Path:
        """Files that can be made again: bootstrap tarballs, downloads."""
        return self.state_dir / "cache"


def default_state_dir() -> Path:
    """/var/lib/imageflow for root, otherwise the XDG state directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/imageflow")
    import platformdirs

    return Path(platformdirs.user_state_dir("imageflow"))


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """For oslo-config-generator: (group, options) pairs."""
    return [
        ("DEFAULT", _DEFAULT),
        ("database", _DATABASE),
        *building.OPTIONS,
        *traffic.OPTIONS,
        *clouds.OPTIONS,
    ]


def load(files: Sequence[str] = (), state_dir: str | None = None) -> Config:
    """Read the configuration; `files` replaces the default files, `state_dir` overrides everything.

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
        frozen = _freeze(conf, found, state_dir)
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
    """Raise ValueError for 'nan' and 'inf', which oslo.config accepts as numbers within any bounds."""
    for group, options in list_opts():
        for option in options:
            if isinstance(option, cfg.FloatOpt) and not math.isfinite(value := conf[group][option.dest]):
                raise ValueError(f"[{group}] {option.name} can't be {value}")


def _unknown(files: Sequence[str]) -> list[str]:
    """Unknown settings in these files, usually typing errors, which oslo.config does not report."""
    known = {(group, option.name) for group, options in list_opts() for option in options}
    found: list[str] = []
    for file in files:
        sections: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(file, sections).parse()
        found += [
            f"[{group}] {name} ({file})"
            for group, values in sections.items()
            for name in values
            if group.lower() not in _FOREIGN and (group if group == "DEFAULT" else group.lower(), name) not in known
        ]
    return found


def _place(match: re.Match[str]) -> str:
    return match["place"]


def _freeze(conf: cfg.ConfigOpts, files: Sequence[str], state_dir: str | None) -> Config:
    given = state_dir or os.environ.get("IMAGEFLOW_STATE_DIR") or conf.state_dir or default_state_dir()
    state = Path(os.path.realpath(given))  # resolved, as the kernel reports mounts below it without '..' and links
    return Config(
        files=tuple(files),
        state_dir=state,
        host=conf.host or socket.gethostname(),
        database=conf.database.connection or f"sqlite:///{state}/imageflow.db",
        conductor=_record(building.ConductorConfig, conf.conductor),
        builds=_record(building.BuildsConfig, conf.builds),
        janitor_interval=conf.janitor.interval,
        dib=building.DibConfig(
            elements_path=tuple(Path(p).absolute() for p in conf.dib.elements_path),
            tmpfs=conf.dib.tmpfs,
            min_free=conf.dib.min_free,
        ),
        store=conf.store.driver,
        store_path=Path(conf.store.path).absolute() if conf.store.path else state / "images",
        secrets_dir=Path(conf.secrets.directory),
        recipes=_record(building.RecipesConfig, conf.recipes),
        catalog=building.CatalogConfig(
            path=Path(conf.catalog.path).absolute(),
            projects=tuple(conf.catalog.projects),
            dib=conf.catalog.dib,
            fresh=conf.catalog.fresh,
            max_requests=conf.catalog.max_requests,
            unheld=conf.catalog.unheld,
        ),
        compute=conf.compute.driver,
        qemu=building.QemuConfig(
            accelerator=conf.qemu.accelerator,
            max_memory=conf.qemu.max_memory,
            max_vcpus=conf.qemu.max_vcpus,
            emulator=conf.qemu.emulator,
            uefi_code=Path(conf.qemu.uefi_code) if conf.qemu.uefi_code else None,
            uefi_vars=Path(conf.qemu.uefi_vars) if conf.qemu.uefi_vars else None,
            network=conf.qemu.network,
            allow=tuple(conf.qemu.allow),
        ),
        layers=_record(building.LayersConfig, conf.layers),
        install=_record(building.InstallConfig, conf.install),
        downloads=_record(building.DownloadsConfig, conf.downloads),
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
    """A record of this kind from the options with the same names."""
    values = {field.name: group[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
