"""The guests' network and the flavors of a cloud that has just started, and the wait until servers can be booted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from keystoneauth1.adapter import Adapter
from keystoneauth1.exceptions import ClientException, Conflict

from tests.cloud import identity
from tests.cloud.settings import PROJECT, Settings

NETWORK = "net0"
_DHCP, _BRIDGE = "neutron-dhcp-agent", "neutron-linuxbridge-agent"
FLAVORS = {  # MiB, vCPUs, GiB
    "m1.nano": (128, 1, 1),
    "m1.micro": (256, 1, 1),
    "m1.small": (512, 1, 3),
    "m1.medium": (1024, 1, 10),
    "m1.large": (2048, 2, 20),
    "m1.diskless": (256, 1, 0),  # with this flavor Nova requires a volume, or an administrator
}


class Provisioner:
    """A session of an administrator of Neutron, Nova and Placement."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        session = identity.password(settings, identity.ADMIN, identity.ADMIN)
        self._network = Adapter(session, service_type="network", interface="public", region_name="RegionOne")
        self._compute = Adapter(session, service_type="compute", interface="public", region_name="RegionOne")
        self._placement = Adapter(session, service_type="placement", interface="public", region_name="RegionOne")

    def network(self) -> None:
        """Make the network; needs neutron-server."""
        made = self._network.post(
            "/v2.0/networks",
            json={
                "network": {
                    "name": NETWORK,
                    "shared": True,
                    "port_security_enabled": False,
                    "provider:network_type": "flat",
                    "provider:physical_network": "cable",
                }
            },
        ).json()["network"]["id"]
        pool = self._settings.subnet.removesuffix("0/24")
        self._network.post(
            "/v2.0/subnets",
            json={
                "subnet": {
                    "network_id": made,
                    "name": f"{NETWORK}-4",
                    "ip_version": 4,
                    "cidr": self._settings.subnet,
                    "gateway_ip": self._settings.gateway,
                    "enable_dhcp": True,
                    "allocation_pools": [{"start": f"{pool}50", "end": f"{pool}249"}],
                }
            },
        )

    def flavors(self) -> None:
        """Make the flavors; needs nova-api."""
        for name, (ram, vcpus, disk) in FLAVORS.items():
            self._compute.post("/flavors", json={"flavor": {"name": name, "ram": ram, "vcpus": vcpus, "disk": disk}})

    def wait(self, check: Callable[[], None], patience: float = 600) -> None:
        """Wait until servers can be booted; `check` raises when that can't happen any more."""
        end = time.monotonic() + patience
        while missing := self._missing():
            check()
            assert time.monotonic() < end, f"not ready: {', '.join(missing)}; see {self._settings.logs}"
            time.sleep(0.5)

    def _missing(self) -> list[str]:
        try:
            agents = {a["binary"]: a["id"] for a in self._get(self._network, "/v2.0/agents", "agents") if a["alive"]}
            missing = [a for a in (_BRIDGE, _DHCP) if a not in agents]
            return missing or self._missing_addresses(agents[_DHCP]) or self._missing_host()
        except ClientException as error:
            return [str(error)]

    def _missing_addresses(self, agent: str) -> list[str]:
        ports = self._get(self._network, "/v2.0/ports?device_owner=network:dhcp", "ports")
        if not ports:  # a race: the agent may not have seen the network when it started
            for network in self._get(self._network, "/v2.0/networks", "networks"):
                with contextlib.suppress(Conflict):
                    self._network.post(f"/v2.0/agents/{agent}/dhcp-networks", json={"network_id": network["id"]})
        return [] if any(p["status"] == "ACTIVE" for p in ports) else ["the network's DHCP server"]

    def _missing_host(self) -> list[str]:
        if not self._get(self._compute, "/os-hypervisors", "hypervisors"):
            return ["nova-compute's host"]
        for host in self._get(self._placement, "/resource_providers", "resource_providers"):
            stock = self._get(self._placement, f"/resource_providers/{host['uuid']}/inventories", "inventories")
            if "VCPU" in stock:
                return []
        return ["Placement's inventory"]

    @staticmethod
    def _get(api: Adapter, path: str, what: str) -> Any:
        return api.get(path).json()[what]


def clouds(settings: Settings, credential: dict[str, str]) -> dict[str, Any]:
    """clouds.yaml's content."""

    def entry(auth_type: str, region: str = "RegionOne", **auth: str) -> dict[str, Any]:
        return {
            "auth_type": auth_type,
            "auth": {"auth_url": settings.auth_url, **auth},
            "region_name": region,
            "identity_api_version": 3,
        }

    def password(user: str, project: str) -> dict[str, Any]:
        domains = {"user_domain_name": "Default", "project_domain_name": "Default"}
        return entry("v3password", username=user, password=settings.password, project_name=project, **domains)

    application = {
        "application_credential_id": credential["id"],
        "application_credential_secret": credential["secret"],
    }
    return {
        "clouds": {
            "imageflow": entry("v3applicationcredential", **application),
            "second": entry("v3applicationcredential", "RegionTwo", **application),
            "member": password(PROJECT, PROJECT),
            "outsider": password("outsider", PROJECT),
            "admin": password(identity.ADMIN, PROJECT),
        }
    }
