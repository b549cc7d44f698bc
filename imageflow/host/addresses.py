"""Network addresses: which are in the public internet, and the exceptions that an operator names.

An exception is HOST, HOST:PORT, ADDRESS/PREFIX or ADDRESS/PREFIX:PORT, with an IPv6 address in brackets if a port
follows, or `mirrors`: the package mirrors and proxies that this host is configured with.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imageflow.errors import ConfigError
from imageflow.host import mirrors

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MIRRORS = "mirrors"
# IANA's registries of special-purpose addresses, multicast, reserved space; and tunnels, which end at any IPv4 address
NOT_PUBLIC: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        *("::/3", "4000::/2", "8000::/1", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ENTRY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]/]+))(/\d+)?(?::(\d+))?")
_HOST = re.compile(r"[A-Za-z0-9_](?:[\w.-]*[A-Za-z0-9_])?\.?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Named:
    """An exception as it was written: a name, or a network; `port` None: all ports."""

    host: str
    network: Network | None
    port: int | None


@dataclass(frozen=True, slots=True)
class Destination:
    """An exception as addresses."""

    network: Network
    port: int | None
    named: str


def parse(entries: Iterable[str], option: str) -> list[Named]:
    """The exceptions in the value of an option; raises ConfigError, which names it."""
    found: list[Named] = []
    for entry in entries:
        if entry == MIRRORS:
            found += [_named(host, "", port) for host, port in mirrors.places() if _usable(host)]
            continue
        match = _ENTRY.fullmatch(entry)
        whole = _network(entry)  # an IPv6 address without brackets
        if match is None and whole is None:
            raise ConfigError(f"{option}: {entry!r} is not HOST, HOST:PORT or ADDRESS/PREFIX:PORT, nor {MIRRORS!r}")
        if match is None:
            found.append(Named(entry, whole, None))
            continue
        port = None if match[4] is None else int(match[4])
        named = _named(match[1] or match[2], match[3] or "", port)
        bad_port = port is not None and not 0 < port < 65536
        if bad_port or (named.network is None and (match[1] or match[3] or not _usable(named.host))):
            raise ConfigError(f"{option}: {entry!r} is not an address or a host, or has no usable port")
        found.append(named)
    return found


def resolve(exceptions: Iterable[Named]) -> list[Destination]:
    """The addresses of exceptions now; a name without an address is left out."""
    found: dict[Destination, None] = {}
    known: dict[str, list[Address]] = {}
    for named in exceptions:
        if named.network is not None:
            found[Destination(named.network, named.port, named.host)] = None
            continue
        if named.host not in known:
            known[named.host] = addresses_of(named.host)
        for address in known[named.host]:
            found[Destination(ipaddress.ip_network(address), named.port, named.host)] = None
    return list(found)


def addresses_of(host: str) -> list[Address]:
    """The addresses of a host, in the resolver's order; [] when it has none."""
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers))


def own() -> set[Address]:
    """The addresses of this host's interfaces."""
    import psutil

    kinds = (socket.AF_INET, socket.AF_INET6)
    every = [each for interface in psutil.net_if_addrs().values() for each in interface if each.family in kinds]
    return {ipaddress.ip_address(each.address.partition("%")[0]) for each in every}


def public(address: Address) -> bool:
    """Whether an address is in the public internet; forms of IPv6 that hold one of IPv4 are as that one is."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return public(address.ipv4_mapped)
        if address in _NAT64:
            return public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return not any(address in network for network in NOT_PUBLIC if network.version == address.version)


class Policy:
    """Where this host may connect to on behalf of a recipe: public addresses that are not its own, and exceptions."""

    def __init__(self, entries: Sequence[str], option: str) -> None:
        """`entries` of the option with this name; raises ConfigError."""
        self._named = parse(entries, option)
        self._destinations: list[Destination] | None = None

    def permits(self, host: str, address: Address, port: int) -> bool:
        """Whether it may connect to this address of a host."""
        plain = getattr(address, "ipv4_mapped", None) or address
        if public(plain) and plain not in own():
            return True
        wanted = [named for named in self._named if named.port in (None, port)]
        if any(named.network is None and named.host.lower() == host.lower().rstrip(".") for named in wanted):
            return True
        if self._destinations is None:
            self._destinations = resolve(self._named)
        return any(
            plain in each.network
            for each in self._destinations
            if each.port in (None, port) and each.network.version == plain.version
        )


def _named(host: str, bits: str, port: int | None) -> Named:
    return Named(host.lower().rstrip("."), _network(host + bits), port)


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _usable(host: str) -> bool:
    return _network(host) is not None or _HOST.fullmatch(host) is not None
