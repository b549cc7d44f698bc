"""What is in a guest: its packages and its file tree."""

from __future__ import annotations

import shlex

from imageflow.content import listing
from imageflow.control import Control
from imageflow.guest import Guest
from imageflow.guest.keys import COMMENT, Keys
from imageflow.guest.seal import ACCOUNTS

_LISTS = {
    "apt-get": r"dpkg-query -W -f '${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n'",
    "dnf": r"rpm -qa --qf 'installed\t%{NAME}\t%{EVR}\t%{ARCH}\n'",
    "zypper": r"rpm -qa --qf 'installed\t%{NAME}\t%{EVR}\t%{ARCH}\n'",
    "apk": r"apk list --installed 2>/dev/null | sed -n 's/^\(.*\)-\([^-]*-r[0-9]*\) \([^ ]*\) .*/installed\t\1\t\2\t\3/p'",
}
_UNSEALED = """
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


def tree(guest: Guest, keys: Keys, *, control: Control, user: str = "root") -> bytes:
    """The file tree as it will be when the machine is sealed, for content.digest; it has been cleaned already."""
    settings = {"key": keys.public.split()[1], "comment": f" {COMMENT}", "user": user}
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    return guest.output(head + ACCOUNTS + listing.script(_UNSEALED), control=control, name="listing the file tree")
