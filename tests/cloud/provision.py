"""The guests' network and the flavors of a cloud that has just started, and the wait until servers can be booted."""

from __future__ import annotations

from typing import Any

from keystoneauth1.adapter import Adapter
from keystoneauth1.exceptions import ClientException

from tests.cloud import identity
from tests.cloud.settings import PROJECT, Settings

NETWORK = "net0"
FLAVORS = {  # MiB, vCPUs, GiB
    "m1.nano": (128, 1, 1),
    "m1.micro": (256, 1, 1),
    "m1.small": (512, 1, 3),
    "m1.medium": (1024, 1, 10),
    "m1.large": (2048, 2, 20),
    "m1.diskless": (256, 1, 0),  # Nova wants a volume with it, or an administrator
}


class Provisioner:
    """An administrator of Neutron, Nova and Placement."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        session = identity.session(settings, identity.ADMIN, identity.ADMIN)
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

    def ready(self) -> bool:
        """Whether a server could be booted: each agent lives, DHCP answers, Placement knows the host."""
        try:
            return not self.missing()
        except ClientException:
            return False

    def missing(self) -> list[str]:
        """What is not ready."""
        agents = {a["binary"] for a in self._get(self._network, "/v2.0/agents", "agents") if a["alive"]}
        want = {"neutron-linuxbridge-agent", "neutron-dhcp-agent"}
        missing = sorted(want - agents)
        ports = self._get(self._network, "/v2.0/ports?device_owner=network:dhcp", "ports")
        if not any(p["status"] == "ACTIVE" for p in ports):
            missing.append("the network's DHCP server")
        if not self._get(self._compute, "/os-hypervisors", "hypervisors"):
            missing.append("nova-compute's host")
        hosts = [h["uuid"] for h in self._get(self._placement, "/resource_providers", "resource_providers")]
        stock = [self._get(self._placement, f"/resource_providers/{h}/inventories", "inventories") for h in hosts]
        if not any("VCPU" in s for s in stock):
            missing.append("Placement's inventory")
        return missing

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
