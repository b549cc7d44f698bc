"""The firewall between machines and this host: where the connections of their QEMUs may lead, as rules of nftables.

QEMU's user network turns a guest's connections into connections of its process, so the user id of a machine's QEMU
(account.py) tells what came from a guest. One table per site, in the host's own namespace: nothing is forwarded or
translated, so other firewalls of the host need no exceptions, and a refusal here is final whatever they accept.
Only what begins a connection is looked at: answers to SSH, which comes in through a forwarded port, go out.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
import os
import socket
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from imageflow.background.flag import Flag
from imageflow.compute.qemu import account
from imageflow.errors import CommandFailed, ImageflowError, Refused
from imageflow.host import process
from imageflow.host.addresses import NOT_PUBLIC, Destination, Network

_RESOLV_CONF = Path("/etc/resolv.conf")
# linux/netfilter/nfnetlink.h, nf_tables.h
_NETLINK_NETFILTER = 12
_RULES_CHANGED = 1 << (7 - 1)  # the group NFNLGRP_NFTABLES
_TABLE_REMOVED = 10 << 8 | 2  # NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE
_REFUSE = "reject with icmpx admin-prohibited"


def trouble() -> str | None:
    """Why there can be no firewall here; None when there can."""
    if (why := account.trouble()) is not None:
        return why
    try:
        process.output(["nft", "list", "tables"])
    except Refused:
        return "there is no program nft: install nftables"
    except CommandFailed as error:
        return f"nft can't be used: {error.hint}"
    return None


def removals(stop: Flag) -> Iterator[None]:
    """At the beginning, and each time that a table of nftables was removed on this host, maybe ours, until `stop` is set."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as kernel:
        kernel.bind((0, _RULES_CHANGED))
        kernel.settimeout(0.5)
        yield  # what was before is not told
        while not stop.is_set():
            try:
                said = kernel.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more was said than fits: it may have been that
                    raise
                yield
                continue
            if _TABLE_REMOVED in _kinds(said):
                yield


def _kinds(said: bytes) -> set[int]:
    """The kinds of the messages in a packet of netlink: each begins with its length and its kind."""
    found, offset = set(), 0
    while offset + 16 <= len(said):
        length, kind = struct.unpack_from("=IH", said, offset)
        found.add(kind)
        offset += max(16, (length + 3) & ~3)
    return found


class Firewall:
    """The firewall of one site."""

    def __init__(self, site: Path) -> None:
        self._site = site.resolve()
        self.table = f"imageflow_{hashlib.sha256(os.fsencode(self._site)).hexdigest()[:12]}"

    def apply(self, allowed: Sequence[Destination]) -> None:
        """Set the rules, at once and instead of earlier ones; raises Refused when the kernel does not take them."""
        ids = account.of_site(self._site)
        assert ids is not None
        rules = "\n".join(self._rules(ids, [*allowed, *_name_servers()]))
        with tempfile.NamedTemporaryFile("w", prefix="imageflow-", suffix=".nft") as file:
            file.write(rules)
            file.flush()
            try:
                process.output(["nft", "-f", file.name])
            except CommandFailed as error:
                raise Refused(f"nft does not take the firewall of machines: {error.hint}") from error

    def stands(self) -> bool:
        """Whether the table is there: restarting the host's own firewall may remove it."""
        try:
            process.output(["nft", "list", "chain", "inet", self.table, "out"])
        except ImageflowError:
            return False
        return True

    def remove(self) -> None:
        """Remove it; absent is fine."""
        if trouble() is None and self.stands():
            process.output(["nft", "delete", "table", "inet", self.table])

    def _rules(self, ids: account.Ids, allowed: Iterable[Destination]) -> Iterator[str]:
        yield f"table inet {self.table} {{ }}"  # so that the next line does not fail
        yield f"delete table inet {self.table}"
        yield f"table inet {self.table} {{"
        every = list(allowed)
        for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
            yield from _set(f"refused{version}", kind, _merged(n for n in NOT_PUBLIC if n.version == version))
            here = [each for each in every if each.network.version == version]
            yield from _set(f"hosts{version}", kind, _merged(each.network for each in here if each.port is None))
            ports = sorted({each.port for each in here if each.port is not None})
            pairs = [(one, port) for port in ports for one in _merged(e.network for e in here if e.port == port)]
            yield from _set(f"services{version}", f"{kind} . inet_service", [f"{one} . {port}" for one, port in pairs])
        yield "chain out {"
        # After the host's translation of addresses (priority -100): what counts is where a packet really goes.
        yield "type filter hook output priority 10; policy accept;"
        yield f"meta skuid {ids.first}-{ids.last} goto machine"
        yield "}"
        yield "chain machine {"
        yield "tcp flags & (fin|syn|rst|ack) != syn accept"
        for version, family in ((4, "ip"), (6, "ip6")):
            yield f"{family} daddr @hosts{version} accept"
            yield f"meta l4proto {{ tcp, udp }} {family} daddr . th dport @services{version} accept"
        yield f"fib daddr type {{ local, broadcast, anycast, multicast }} {_REFUSE}"
        for version, family in ((4, "ip"), (6, "ip6")):
            yield f"{family} daddr @refused{version} {_REFUSE}"
        yield "}"
        yield "}"


def _set(name: str, kind: str, elements: Sequence[str]) -> Iterator[str]:
    yield f"set {name} {{ type {kind}; flags interval;"
    if elements:
        yield f"elements = {{ {', '.join(elements)} }}"
    yield "}"


def _merged(networks: Iterable[Network]) -> list[str]:
    """As few as possible: a set can't hold two networks that overlap."""
    return [str(network) for network in ipaddress.collapse_addresses(networks)]  # type: ignore[type-var]


def _name_servers() -> Iterator[Destination]:
    """QEMU's user network asks these on behalf of guests."""
    for line in _RESOLV_CONF.read_text("utf-8", "replace").splitlines() if _RESOLV_CONF.is_file() else ():
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            try:
                yield Destination(ipaddress.ip_network(words[1].partition("%")[0]), 53, words[1])
            except ValueError:
                continue
