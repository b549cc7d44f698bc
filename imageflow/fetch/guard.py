"""Connections on behalf of recipes: every one, of every redirect, goes to an address that may be reached.

The address that is checked is the one that is connected to: a name that has another address a moment later gains
nothing. Through a proxy, which looks names up itself, a name is checked by what it means here, if anything.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import urllib.parse

from imageflow.config import Config
from imageflow.errors import Refused
from imageflow.host.addresses import Policy, addresses_of

OPTION = "[downloads] allow"
SCHEMES = {"http": 80, "https": 443}


def policy(config: Config) -> Policy:
    """What [downloads] allow says; raises ConfigError."""
    return Policy(config.downloads.allow, OPTION)


def check_scheme(url: str) -> None:
    """Raise Refused for anything but http and https."""
    if url.partition(":")[0].lower() not in SCHEMES:
        raise Refused("a redirect leads to something that is not http or https", hint="check the URL in the recipe")


def check(reach: Policy, url: str) -> None:
    """Raise Refused for a URL that a proxy must not be asked for either."""
    check_scheme(url)
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname:
        return  # the client itself refuses it
    port = parts.port or SCHEMES[parts.scheme.lower()]
    found = addresses_of(parts.hostname)
    if found and not any(reach.permits(parts.hostname, address, port) for address in found):
        raise refusal(parts.hostname, port)


def connect(
    reach: Policy,
    address: tuple[str, int],
    timeout: float | None = None,
    source_address: tuple[str, int] | None = None,
) -> socket.socket:
    """As socket.create_connection, with the first address that may be reached and answers; raises Refused when none may."""
    host, port = address[0].strip("[]"), address[1]
    found = dict.fromkeys(str(answer[4][0]) for answer in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    permitted = [one for one in found if reach.permits(host, ipaddress.ip_address(one.partition("%")[0]), port)]
    if not permitted:
        raise refusal(host, port)
    *others, last = permitted
    for one in others:
        with contextlib.suppress(OSError):
            return socket.create_connection((one, port), timeout, source_address)
    return socket.create_connection((last, port), timeout, source_address)


def refusal(host: str, port: int) -> Refused:
    """The error for a host that must not be reached."""
    return Refused(
        f"{host}:{port} is this host, or in a private network: no recipe or redirect leads there by itself",
        hint=f"if it is meant, add {host}:{port} to {OPTION}",
    )
