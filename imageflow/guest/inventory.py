"""What is in a guest: its packages."""

from __future__ import annotations

from imageflow.control import Control
from imageflow.guest import Guest

_LISTS = {
    "apt-get": r"dpkg-query -W -f '${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n'",
    "dnf": r"rpm -qa --qf 'installed\t%{NAME}\t%{EVR}\t%{ARCH}\n'",
    "zypper": r"rpm -qa --qf 'installed\t%{NAME}\t%{EVR}\t%{ARCH}\n'",
    "apk": r"apk list --installed 2>/dev/null | sed -n 's/^\(.*\)-\([^-]*-r[0-9]*\) \([^ ]*\) .*/installed\t\1\t\2\t\3/p'",
}


def packages(guest: Guest, *, control: Control) -> list[dict[str, str]] | None:
    """[{"name", "version", "arch"}], sorted; None where the guest has no packages that we know of."""
    command = _LISTS.get(guest.facts.packages or "")
    if command is None:
        return None
    found = []
    for line in guest.run(command, control=control).splitlines():
        state, name, version, architecture = (*line.split("\t"), "", "", "")[:4]
        if state == "installed" and name:
            found.append({"name": name, "version": version, "arch": architecture})
    return sorted(found, key=lambda package: (package["name"], package["arch"]))
