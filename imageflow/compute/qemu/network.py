"""The network of machines: what a guest may reach, as this host permits it.

Filtered: anything in the public internet, and what [qemu] allow names, by the firewall. Restricted, where there can be
none: only what [qemu] allow names, each host at an address of its own in the guest's network, and no name service.
Open: whatever this host reaches, its own services included.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from imageflow.background.flag import Flag
from imageflow.compute.qemu import account, firewall
from imageflow.config import Config
from imageflow.errors import ConfigError, ImageflowError
from imageflow.host.addresses import Named, parse, resolve
from imageflow.host.locks import locked

LOG = logging.getLogger(__name__)
_OPTION = "[qemu] allow"
_FORWARD = "hostfwd=tcp:127.0.0.1:0-:22"  # QEMU lets the kernel choose the port
_FIRST = 100  # of 10.0.2.0/24, QEMU's user network; a guest itself is 10.0.2.15
_MOST = 100
_LONG = 60.0  # seconds between two looks at whether to stop
_RELAY = Path(__file__).with_name("relay.py")
_PYTHONS = (sys.executable, os.path.realpath(sys.executable), "/usr/bin/python3", "/usr/libexec/platform-python")


class Kind(StrEnum):
    """How far guests are kept from the host."""

    FILTERED = "filtered"
    RESTRICTED = "restricted"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Way:
    """What a restricted guest can reach: a service, and where it finds it."""

    host: str
    port: int
    address: str


class Network:
    """The network of one site's machines."""

    def __init__(self, config: Config) -> None:
        self._config = config.qemu
        self._site = config.machines_dir
        self._firewall = firewall.Firewall(self._site)
        self._lock = self._site / ".network.lock"

    def kind(self) -> tuple[Kind, str]:
        """What machines get, and why they can't have more; raises ConfigError when the configured kind is impossible."""
        wanted = self._config.network
        if wanted in (Kind.OPEN, Kind.RESTRICTED):
            return Kind(wanted), f"[qemu] network = {wanted}"
        why = firewall.trouble()
        if why is None:
            return Kind.FILTERED, ""
        if wanted == Kind.FILTERED:
            raise ConfigError(
                f"machines can't have a filtered network: {why}", hint="or say [qemu] network = restricted"
            )
        return Kind.RESTRICTED, why

    def check(self) -> None:
        """Raise ConfigError for options that can't be right."""
        self._named()
        self.kind()

    def said(self) -> str:
        """What an operator must know of it; '' when guests are kept apart and reach all that they need."""
        kind, why = self.kind()
        if kind is Kind.FILTERED:
            return ""
        if kind is Kind.OPEN:
            return "guests reach every service of this host, also on loopback, and every network that it reaches"
        ways = ", ".join(f"{way.host}:{way.port} at {way.address}" for way in self.ways()) or "nothing"
        return f"guests are restricted ({why}): they have no name service, and reach {ways} ({_OPTION})"

    def prepare(self, folder: Path) -> tuple[str, bool]:
        """Make it ready for a machine with this folder; -> QEMU's option, and whether QEMU starts programs."""
        kind, _ = self.kind()
        words = ["user", "id=net", "ipv6=off", _FORWARD]
        if kind is Kind.FILTERED:
            with locked(self._lock):
                self._firewall.apply(resolve(self._named()))
        ways = self.ways() if kind is Kind.RESTRICTED else []
        if kind is Kind.RESTRICTED:
            words.append("restrict=on")
        python = _python() if ways else None
        if ways and python is None:
            LOG.warning("guests reach nothing: QEMU's user may run no Python; install python3, or nftables")
            ways = []
        if ways:
            shutil.copyfile(_RELAY, folder / _RELAY.name)
            (folder / _RELAY.name).chmod(0o644)
        for way in ways:
            command = shlex.join([str(python), "-IS", _RELAY.name, way.host, str(way.port)])
            words.append(f"guestfwd=tcp:{way.address}:{way.port}-cmd:{command.replace(',', ',,')}")
        return ",".join(words), bool(ways)

    def ways(self) -> Sequence[Way]:
        """What a restricted guest reaches: named services, without networks and without entries that name no port."""
        found: list[Way] = []
        hosts: dict[str, str] = {}
        for named in dict.fromkeys(self._named()):
            if named.port is None or (named.network is not None and named.network.num_addresses > 1):
                continue
            if named.host not in hosts and len(hosts) == _MOST:
                break
            address = hosts.setdefault(named.host, f"10.0.2.{_FIRST + len(hosts)}")
            found.append(Way(named.host, named.port, address))
        return found

    def renew(self) -> None:
        """Set the rules again: the host's firewall was restarted, or a name has another address now."""
        if self.kind()[0] is not Kind.FILTERED or not self._used():
            return
        with locked(self._lock):
            if self._used():
                if not self._firewall.stands():
                    LOG.warning("the firewall of machines was removed from outside; it is set again")
                self._firewall.apply(resolve(self._named()))

    def watch(self, stop: Flag) -> None:
        """Set the rules again as soon as something else removes them."""
        if self.kind()[0] is not Kind.FILTERED:
            while not stop.wait(_LONG):
                pass
            return
        for _ in firewall.removals(stop):
            if self._used() and not self._firewall.stands():
                self.renew()

    def release(self) -> None:
        """Remove the rules with the last machine."""
        with contextlib.suppress(ImageflowError), locked(self._lock):
            if not self._used():
                self._firewall.remove()

    def _named(self) -> list[Named]:
        return parse(self._config.allow, _OPTION)

    def _used(self) -> bool:
        return self._site.is_dir() and any(
            entry.is_dir() and not entry.name.startswith(".") for entry in self._site.iterdir()
        )


def _python() -> str | None:
    """A Python that the user of QEMU may run: ours can be in a folder that only root may enter."""
    if account.trouble() is not None:
        return sys.executable
    for program in _PYTHONS:
        path = Path(os.path.realpath(program))
        open_to_all = all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents) if folder.exists())
        if path.is_file() and open_to_all:
            return str(path)
    return None
