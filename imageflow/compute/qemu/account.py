"""The user ids that machines' QEMUs run as, where imageflow is root: one per machine, derived from its name.

They belong to no account: nothing on the host is owned by them but a machine's own disks. The firewall knows a
machine's connections by them.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

_MACHINES = 1 << 13  # ids of one site


@dataclass(frozen=True, slots=True)
class Ids:
    """A range of user ids; those of groups are the same."""

    first: int
    count: int

    @property
    def last(self) -> int:
        return self.first + self.count - 1


# Above what subuid, SSSD and systemd hand out. In a user namespace only small ids exist: there, systemd's range of
# dynamic users.
_RANGE = Ids(2_100_000_000, 1 << 25)
_SMALL = Ids(61_184, 1 << 12)


# To become another user, and to see and end that user's processes: some containers have only a part of root's rights.
_CAPABILITIES = {"CHOWN": 0, "KILL": 5, "SETGID": 6, "SETUID": 7, "SYS_PTRACE": 19}


def trouble() -> str | None:
    """Why QEMU can't run as another user here; None when it can."""
    if os.geteuid() != 0:
        return "imageflow does not run as root"
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    missing = [f"CAP_{name}" for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    return f"imageflow's root has no {', '.join(missing)}" if missing else None


def of_site(site: Path) -> Ids | None:
    """The ids of a site's machines; None where QEMU can't run as another user."""
    if trouble() is not None:
        return None
    for every, count in ((_RANGE, _MACHINES), (_SMALL, 1 << 6)):
        if _exist(every):
            return Ids(every.first + _number(str(site.resolve()), every.count // count) * count, count)
    return None


def of_machine(site: Path, name: str) -> int | None:
    """The id of one machine, for user and group."""
    ids = of_site(site)
    return None if ids is None else ids.first + _number(name, ids.count)


def own(path: Path, site: Path, name: str) -> None:
    """Make a file the machine's own: its QEMU writes to it, or opens it after it has given up root's rights."""
    if (user := of_machine(site, name)) is not None:
        os.chown(path, user, user, follow_symlinks=False)


def _number(text: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(text)).digest()[:8]) % count


def _exist(ids: Ids) -> bool:
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, _, count = (int(word) for word in line.split())
        if inside <= ids.first and ids.last < inside + count:
            return True
    return False
