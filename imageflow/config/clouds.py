"""The options of clouds: access to OpenStack, its machines, its images, and publication targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oslo_config import cfg

OPENSTACK: list[cfg.Opt] = [
    cfg.StrOpt(
        "cloud",
        help="Name of the cloud in clouds.yaml; OS_CLOUD, or the OS_* variables, by default.",
    ),
    cfg.StrOpt("region", help="Region; by default the one in clouds.yaml."),
    cfg.StrOpt("clouds_yaml", help="File to use instead of those that openstacksdk searches for."),
    cfg.FloatOpt("timeout", default=60.0, min=1.0, help="Seconds without data after which a request to a cloud fails."),
    cfg.FloatOpt(
        "patience",
        default=300.0,
        min=0.0,
        help="Seconds of retries, when a service does not answer or answers 5xx, before the step fails.",
    ),
]
GLANCE: list[cfg.Opt] = [
    cfg.StrOpt(
        "visibility",
        default="private",
        choices=(
            ("private", "only our project sees them"),
            ("shared", "our project, and the projects that an image is shared with"),
            ("community", "all projects may use them, but see them only on request"),
            ("public", "all projects; needs a role for it"),
        ),
        help="Visibility of published images whose recipe does not set one.",
    ),
    cfg.StrOpt(
        "import_method",
        default="upload",
        choices=(
            ("upload", "sent to Glance, into one store"),
            ("glance-direct", "interoperable import: staged, and spread over stores by the cloud"),
        ),
        help="How data is sent to Glance.",
    ),
    cfg.ListOpt(
        "stores",
        default=[],
        help="Names of Glance's stores for images; by default the cloud chooses. Several only with glance-direct.",
    ),
]
NOVA: list[cfg.Opt] = [
    cfg.StrOpt("network", help="Name or id of the network of build machines; the only one by default."),
    cfg.StrOpt("floating_network", help="Network of floating addresses; by default none, the fixed address is used."),
    cfg.StrOpt("flavor", help="Flavor of every machine; by default the smallest that is large enough."),
    cfg.StrOpt("availability_zone", help="Availability zone of machines; the cloud's choice by default."),
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
        help="Targets to which every image is published besides the store: NAME=glance:CLOUD, NAME=glance:CLOUD/REGION,"
        " NAME=directory:PATH; each has its own state and retries.",
    ),
    cfg.FloatOpt("max_wait", default=600.0, min=0.1, help="Longest wait in seconds between two attempts at a target."),
    cfg.FloatOpt("lease", default=60.0, min=1.0, help="Seconds after which a silent publisher has lost its work."),
]
OPTIONS = [("openstack", OPENSTACK), ("glance", GLANCE), ("nova", NOVA), ("publish", PUBLISH)]


@dataclass(frozen=True, slots=True)
class OpenStackConfig:
    """The cloud, and the patience with it; see the options' help."""

    cloud: str | None
    region: str | None
    clouds_yaml: Path | None
    timeout: float
    patience: float


@dataclass(frozen=True, slots=True)
class GlanceConfig:
    """How images are sent to Glance."""

    visibility: str
    import_method: str
    stores: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NovaConfig:
    """How machines are made in Nova; times in seconds."""

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
    """Where images are published besides the store."""

    targets: tuple[str, ...]
    max_wait: float
    lease: float
