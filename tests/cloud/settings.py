"""The settings of one cloud: its folder, ports, network and password; a file in the folder has them for others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

ADDRESS = "127.0.0.1"
HOST = "cloud"  # the services' name for this machine
REGION = "RegionOne"
SECOND_REGION = "RegionTwo"  # has only a Glance of its own
PROJECT = "imageflow"
DATABASES = (
    "keystone",
    "glance",
    "glance_second",
    "placement",
    "nova_api",
    "nova_cell0",
    "nova_cell1",
    "neutron",
    "heat",
)
# What listens, in this order, from IMAGEFLOW_TEST_CLOUD_PORTS on.
LISTENERS = (
    "keystone",
    "glance-api",
    "glance-second",
    "nova-api",
    "neutron-server",
    "placement",
    "rabbit",
    "mariadb",
    "epmd",
    "erlang",
    "heat-api",
)


def root() -> Path:
    """The folder of all clouds, with what later starts reuse; other users must be able to traverse it."""
    return Path(os.environ.get("IMAGEFLOW_TEST_CLOUD_DIR") or "/var/tmp/imageflow-cloud").absolute()


@dataclass(frozen=True)
class Settings:
    """One cloud; `network` is the N of 10.178.N.0/24, `token_life` is in seconds."""

    folder: Path
    ports: Mapping[str, int]
    network: int
    password: str
    token_life: int = 86400

    @classmethod
    def load(cls, folder: Path) -> Settings:
        """Read what `save` wrote; FileNotFoundError where no cloud is."""
        stored = json.loads((folder / "settings.json").read_text())
        return cls(**{**stored, "folder": folder})

    def save(self) -> None:
        """Write the file for other users of this cloud."""
        write(self.folder / "settings.json", json.dumps(asdict(self) | {"folder": str(self.folder)}, indent=1))

    @property
    def configuration(self) -> Path:
        return self.folder / "etc"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def heat_python(self) -> Path:
        """Where packages are put that heat imports beside its own."""
        return self.state / "heat-engine/python"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def clouds_yaml(self) -> Path:
        return self.folder / "clouds.yaml"

    def url(self, service: str, path: str = "") -> str:
        """The URL of a service that speaks HTTP."""
        return f"http://{ADDRESS}:{self.ports[service]}{path}"

    @property
    def auth_url(self) -> str:
        return self.url("keystone", "/v3")

    @property
    def bus(self) -> str:
        """oslo.messaging's URL."""
        return f"rabbit://openstack:{self.password}@{ADDRESS}:{self.ports['rabbit']}/"

    def database(self, name: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"mysql+pymysql://openstack:{self.password}@{ADDRESS}:{self.ports['mariadb']}/{name}"

    @property
    def subnet(self) -> str:
        return f"10.178.{self.network}.0/24"

    @property
    def gateway(self) -> str:
        """This machine's address in the guests' network."""
        return f"10.178.{self.network}.1"

    @property
    def host_interface(self) -> str:
        """This machine's end of the cable to the guests' network."""
        return f"imageflow-{self.network}"

    @property
    def cloud_interface(self) -> str:
        """The cloud's end of the cable, which it puts into its bridge."""
        return f"imgcloud-{self.network}"


def write(path: Path, text: str) -> None:
    """Write a file that only we can read: most of them contain the password."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
