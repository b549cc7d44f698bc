"""The content of a guest: its packages and its file tree."""

from __future__ import annotations

import shlex

from imageflow.content import listing
from imageflow.guest import Guest, scripts, way_in_server
from imageflow.guest.keys import COMMENT, Keys
from imageflow.guest.seal import ACCOUNTS
from imageflow.host.control import Control

_LISTS = {
    "apt-get": r"dpkg-query -W -f '${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n'",
    "dnf": r"rpm -qa --qf 'installed\t%{NAME}\t%{EVR}\t%{ARCH}\n'",
    "zypper": r"rpm -qa --qf 'installed\t%{NAME}\t%{EVR}\t%{ARCH}\n'",
    "apk": r"apk list --installed 2>/dev/null | sed -n 's/^\(.*\)-\([^-]*-r[0-9]*\) \([^ ]*\) .*/installed\t\1\t\2\t\3/p'",
}
_UNSEALED = """
way_in_files | while read -r file; do echo "x .$file"; done
if hosts_changed; then
    rest=$(hosts_of_image)
    if [ "$rest" ]; then
        hash=$(printf '%s\\n' "$rest" | sha256sum) && echo "n ${hash%% *} ./etc/hosts"
    else
        echo "x ./etc/hosts"
    fi
fi
key_files | while read -r file; do  # as sealing will leave them
    if grep -q -e "$key" -e "$comment\\$" "$file"; then
        rest=$(grep -v -e "$key" -e "$comment\\$" "$file")
        if [ "$rest" ]; then
            hash=$(printf '%s\\n' "$rest" | sha256sum) && echo "n ${hash%% *} .$file"
        else
            echo "x .$file"
        fi
    fi
done
if [ "$user" != root ]; then echo "x ./etc/sudoers.d/90-cloud-init-users"; fi
"""


def packages(guest: Guest, *, control: Control) -> list[dict[str, str]] | None:
    """[{"name", "version", "arch"}], sorted; None when the guest has no known package manager."""
    command = _LISTS.get(guest.facts.packages or "")
    if command is None:
        return None
    found = []
    for line in guest.run(command, control=control).splitlines():
        state, name, version, architecture = (*line.split("\t"), "", "", "")[:4]
        if state == "installed" and name:
            found.append({"name": name, "version": version, "arch": architecture})
    return sorted(found, key=lambda package: (package["name"], package["arch"]))


def tree(guest: Guest, keys: Keys, *, control: Control, user: str = "root") -> bytes:
    """The file tree as it will be once the (already cleaned) machine is sealed, for content.digest."""
    settings = {"key": keys.public.split()[1], "comment": f" {COMMENT}", "user": user}
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    return guest.output(
        head + ACCOUNTS + scripts.HOSTS + way_in_server.FILES + listing.script(_UNSEALED),
        control=control,
        name="listing the file tree",
    )
