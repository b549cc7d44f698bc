"""The cable between this machine and the guests' network, and the remains of killed clouds' cables."""

from __future__ import annotations

import ipaddress
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cloud.settings import Settings

_INTERFACES = Path("/sys/class/net")
_HOST, _CLOUD = "imageflow-", "imgcloud-"


def free_network(wanted: int | None = None) -> int:
    """An N of 10.178.N.0/24 that this machine has no route into."""
    candidates = [wanted] if wanted is not None else random.sample(range(256), 256)
    routes = [ipaddress.ip_network(r) for r in _routes()]
    for n in candidates:
        net = ipaddress.ip_network(f"10.178.{n}.0/24")
        if not any(net.overlaps(r) for r in routes) and not (_INTERFACES / f"{_HOST}{n}").exists():
            return n
    raise RuntimeError(f"no network of 10.178.0.0/16 is free; {len(routes)} routes")


def _routes() -> list[str]:
    """Destinations of this machine's routes, except the default."""
    first = (line.split()[0] for line in _ip("-4", "route", "show").splitlines() if line.strip())
    return [r for r in first if r[0].isdigit()]


def lay(settings: Settings) -> None:
    """Lay the cable: one end has the guests' gateway, the cloud puts the other into its bridge."""
    host, cloud = settings.host_interface, settings.cloud_interface
    _ip("link", "add", host, "type", "veth", "peer", "name", cloud)
    _ip("link", "set", host, "alias", str(settings.folder))  # the cloud it belongs to
    _ip("address", "add", f"{settings.gateway}/24", "dev", host)
    for end in (host, cloud):
        _ip("link", "set", end, "up")


def remove(network: int) -> None:
    """Remove the cable and the bridge that it ends in; absent is fine."""
    bridge = _INTERFACES / f"{_CLOUD}{network}" / "master"
    names = [bridge.resolve().name] if bridge.exists() else []
    for name in (*names, f"{_HOST}{network}"):
        if (_INTERFACES / name).exists():
            _ip("link", "delete", name)


def remove_dead(lives: Callable[[Path], bool]) -> None:
    """Remove those of clouds that are not running."""
    for interface in _INTERFACES.glob(f"{_HOST}*"):
        owner = (interface / "ifalias").read_text().strip()
        number = interface.name.removeprefix(_HOST)
        if owner and number.isdigit() and not lives(Path(owner)):
            remove(int(number))


def _ip(*argv: str) -> str:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"ip {' '.join(argv)}: {done.stderr.strip()}"
    return done.stdout
