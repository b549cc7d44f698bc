"""Who sends a request: the client's address, also behind proxies that are trusted to tell it."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from typing import Any

from imageflow.errors import ConfigError

LOG = logging.getLogger(__name__)
_TELLS = (b"x-forwarded-for", b"forwarded", b"x-real-ip")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Clients:
    """Tells clients apart: by their IPv4 address, or by the /64 network of one IPv6 customer."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """`trusted`: addresses and networks of proxies; raises ConfigError for anything else."""
        self._trusted = [_network(one) for one in trusted if one.strip()]
        self._said = False

    def of(self, scope: Any) -> str:
        """The client of an ASGI request."""
        peer = scope["client"][0] if scope.get("client") else "unknown"
        address = _address(peer)
        if address is None:
            return str(peer)
        if not self._trusts(address):
            if not self._said and any(name in _TELLS for name, _ in scope["headers"]):
                self._said = True
                LOG.warning(
                    "requests come through a proxy at %s: all its clients share one limit; name it in [api] trusted_proxies",
                    address,
                )
            return _shown(address)
        told = b",".join(value for name, value in scope["headers"] if name == _TELLS[0]).decode("latin-1")
        for text in reversed(told.split(",")):  # each proxy adds its peer at the end; what is before may be invented
            found = _address(text.strip())
            if found is None:
                break
            address = found
            if not self._trusts(found):
                break
        return _shown(address)

    def is_proxy(self, host: str) -> bool:
        """Whether connections from this address are those of many clients."""
        address = _address(host)
        return address is not None and self._trusts(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted if network.version == address.version)


def name_of(host: str) -> str:
    """The client at the other end of a connection."""
    address = _address(host)
    return host if address is None else _shown(address)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise ConfigError(
            f"[api] trusted_proxies: {text!r} is no address", hint="such as 127.0.0.1, ::1 or 10.0.0.0/24"
        ) from None


def _address(text: str) -> Address | None:
    """An address as proxies write it: also [IPV6], ADDRESS:PORT, [IPV6]:PORT."""
    bare = text.partition("]")[0].removeprefix("[") if text.startswith("[") else text
    if bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        found = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _shown(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
