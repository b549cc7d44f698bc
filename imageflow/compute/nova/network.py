"""The network of build machines, and the address of a machine's SSH server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imageflow.compute import Address
from imageflow.config.clouds import NovaConfig
from imageflow.errors import Refused, Unavailable
from imageflow.host.control import Control
from imageflow.openstack import Cloud
from imageflow.openstack.cloud_errors import patiently

SSH = 22
_HINT = "see [nova] network, and 'openstack network list' with the same cloud"


class Network:
    """Requests to Neutron."""

    def __init__(self, cloud: Cloud, config: NovaConfig) -> None:
        self._cloud = cloud
        self._config = config
        self._id: str | None = None

    def _ask(self, what: str, method: str, path: str, **more: Any) -> Any:
        named = f"{self._cloud.name}: {what}"
        answer = patiently(
            named,
            lambda: self._cloud.network.request(f"/v2.0/{path}", method, **more),
            patience=self._cloud.config.patience,
        )
        return answer.json() if answer.content else {}

    def id(self) -> str:
        """Id of the machines' network: the configured one, or the only one. Raises Refused."""
        if self._id is None:
            self._id = choose(self._ask("its networks", "GET", "networks")["networks"], self._config.network)
        return self._id

    def address(self, server: Any, name: str) -> Address:
        """The machine's address: its floating address if it has one, otherwise the fixed one, IPv4 first."""
        found = [entry for entries in server.addresses.values() for entry in entries]
        kinds = {"floating": 0 if self._config.floating_network else 2, "fixed": 1}
        found.sort(key=lambda e: (kinds.get(e.get("OS-EXT-IPS:type", "fixed"), 1), e["version"]))
        if not found:
            raise Unavailable(f"machine {name} has no address yet")
        return Address(str(found[0]["addr"]), SSH)

    def give_floating(self, server_id: str, name: str, control: Control) -> None:
        """Make sure that the server has a floating address, if configured; idempotent."""
        wanted = self._config.floating_network
        if wanted is None:
            return
        ports = self._ask("ports", "GET", "ports", params={"device_id": server_id})["ports"]
        if not ports:
            raise Unavailable(f"machine {name} has no port yet")
        port = ports[0]["id"]
        if (found := self._floating(name)) and any(entry.get("port_id") == port for entry in found):
            return
        if found:  # left from an earlier server
            moved = {"floatingip": {"port_id": port}}
            self._ask("a floating address", "PUT", f"floatingips/{found[0]['id']}", json=moved)
            return
        external = self._ask("networks", "GET", "networks", params={"router:external": "true"})["networks"]
        pools = [n["id"] for n in external if wanted in (n["name"], n["id"])]
        if len(pools) != 1:
            raise Refused(
                f"there is not exactly one network {wanted!r} of floating addresses", hint="see [nova] floating_network"
            )
        body = {"floating_network_id": pools[0], "port_id": port, "description": name}
        control.check()

        def make() -> None:  # a lost answer may have been a success, and a port has at most one
            if not self._floating(name):
                self._cloud.network.request("/v2.0/floatingips", "POST", json={"floatingip": body})

        patiently(f"{self._cloud.name}: a floating address", make, patience=self._cloud.config.patience)

    def take_floating(self, name: str) -> None:
        """Release the machine's floating addresses, if any."""
        if self._config.floating_network is not None:
            for entry in self._floating(name):
                self._ask("a floating address", "DELETE", f"floatingips/{entry['id']}", raise_exc=False)
            if self._floating(name):
                raise Unavailable(f"the floating address of {name} is still there", hint="the janitor tries again")

    def _floating(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask(
            "floating addresses", "GET", "floatingips", params={"description": name}
        )["floatingips"]
        return found


def choose(networks: Sequence[Mapping[str, Any]], wanted: str | None) -> str:
    """Id of the wanted network, by its name or id, or of the only one; raises Refused.

    External networks don't count as the only one: they provide floating addresses, but machines must not be on them.
    """
    inside = [n for n in networks if not n.get("router:external")] or networks
    found = [n for n in (inside if wanted is None else networks) if wanted in (None, n["name"], n["id"])]
    names = ", ".join(sorted(n["name"] or n["id"] for n in (inside if wanted is None else networks)))
    if not found:
        there = f"; there are: {names}" if names else ""
        raise Refused(f"there is no network {repr(wanted) if wanted else 'at all'}{there}", hint=_HINT)
    if len(found) > 1:
        what = f"there are {len(found)} networks {wanted!r}" if wanted else f"there are several networks: {names}"
        raise Refused(what, hint="name one with [nova] network, by its id where names are not unique")
    return str(found[0]["id"])
