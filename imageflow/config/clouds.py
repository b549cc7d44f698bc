"""The options of clouds: how OpenStack is reached, its machines, its images, and where else images go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

OPENSTACK: list[cfg.Opt] = [
    cfg.StrOpt(
        "cloud",
        help="Name of the cloud in clouds.yaml; OS_CLOUD, or the OS_* variables, by default.",
    ),
    cfg.StrOpt("region", help="Region; by default the one that clouds.yaml says."),
    cfg.StrOpt("clouds_yaml", help="This file instead of those that openstacksdk looks for."),
    cfg.FloatOpt("timeout", default=60.0, min=1.0, help="Seconds that one request to a cloud may be silent."),
    cfg.FloatOpt(
        "patience",
        default=300.0,
        min=0.0,
        help="Seconds that a service which does not answer, or answers 5xx, is asked again before the step fails.",
    ),
]
GLANCE: list[cfg.Opt] = [
    cfg.StrOpt(
        "visibility",
        default="private",
        choices=(
            ("private", "only our project sees them"),
            ("shared", "our project, and those that it shares each with"),
            ("community", "everybody may use them, and sees them only when asking for such"),
            ("public", "everybody; needs a role for it"),
        ),
        help="Who sees published images whose recipe does not say.",
    ),
    cfg.StrOpt(
        "import_method",
        default="upload",
        choices=(
            ("upload", "sent to Glance, into one store"),
            ("glance-direct", "interoperable import: staged, and spread over stores by the cloud"),
        ),
        help="How data gets into Glance.",
    ),
    cfg.ListOpt(
        "stores",
        default=[],
        help="Glance's stores that images go to, by their names; by default the cloud chooses. Several: with glance-direct.",
    ),
]
NOVA: list[cfg.Opt] = [
    cfg.StrOpt("network", help="Name or id of the network of build machines; the only one there is by default."),
    cfg.StrOpt("floating_network", help="Network of floating addresses; none by default: the fixed address is used."),
    cfg.StrOpt("flavor", help="This flavor for every machine; by default the smallest that is large enough."),
    cfg.StrOpt("availability_zone", help="Where machines are put; the cloud's choice by default."),
    cfg.ListOpt(
        "security_groups",
        default=[],
        help="Security groups of machines: they must let in SSH from here. By default the project's group 'default'.",
    ),
    cfg.FloatOpt("poll", default=2.0, min=0.1, help="Seconds between two looks at a server."),
    cfg.FloatOpt("build_timeout", default=600.0, min=1.0, help="Seconds until a server must be active."),
    cfg.FloatOpt("snapshot_timeout", default=3600.0, min=1.0, help="Seconds until a snapshot must be active."),
]
PUBLISH: list[cfg.Opt] = [
    cfg.ListOpt(
        "targets",
        default=[],
        help="Where every image is published besides the store: NAME=glance:CLOUD, NAME=glance:CLOUD/REGION,"
        " NAME=directory:PATH; each has its own state, and is tried again by itself.",
    ),
    cfg.FloatOpt("max_wait", default=600.0, min=0.1, help="Seconds at most between two attempts at a target."),
    cfg.FloatOpt("lease", default=60.0, min=1.0, help="Seconds after which a silent publisher has lost its work."),
]
OPTIONS = [("openstack", OPENSTACK), ("glance", GLANCE), ("nova", NOVA), ("publish", PUBLISH)]


@dataclass(frozen=True, slots=True)
class OpenStackConfig:
    """Which cloud, and how patiently it is asked; see the options' help."""

    cloud: str | None
    region: str | None
    clouds_yaml: Path | None
    timeout: float
    patience: float


@dataclass(frozen=True, slots=True)
class GlanceConfig:
    """How images are put into Glance."""

    visibility: str
    import_method: str
    stores: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NovaConfig:
    """How machines are made by Nova; times in seconds."""

    network: str | None
    floating_network: str | None
    flavor: str | None
    availability_zone: str | None
    security_groups: tuple[str, ...]
    poll: float
    build_timeout: float
    snapshot_timeout: float


@dataclass(frozen=True, slots=True)
class PublishConfig:
    """Where images go besides the store."""

    targets: tuple[str, ...]
    max_wait: float
    lease: float
