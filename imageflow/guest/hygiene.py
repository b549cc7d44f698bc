"""Checks, in a throw-away machine booted from a finished image, whether sealing worked."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from imageflow.guest import Guest
from imageflow.guest.keys import COMMENT
from imageflow.guest.seal import ACCOUNTS
from imageflow.host.control import Control

_LOOK = r"""
key_files | while read -r file; do
    if grep -qF "$key" "$file"; then
        echo "key=$file"
    elif [ "$own" ] && grep -v -F -e "$own" "$file" | grep -q -e "$key" -e "$comment\$"; then echo "key=$file"; fi
done
if [ -f /etc/machine-id ]; then
    id=
    read -r id < /etc/machine-id || :
    echo "machine-id=$id"
fi
for file in /etc/ssh/ssh_host_*_key.pub; do
    if [ -f "$file" ] && grep -qF "$host" "$file"; then echo "host=$file"; fi
done
if [ -f /etc/shadow ] && [ "$user" != root ]; then
    while IFS=: read -r name hash rest; do
        if [ "$name" = "$user" ]; then case $hash in '$'*) echo "password=$name" ;; esac; fi
    done < /etc/shadow
fi
for file in /root/anaconda-ks.cfg /root/original-ks.cfg /var/log/installer; do
    [ ! -e "$file" ] || echo "installer=$file"
done
if [ -d /run/systemd/system ]; then systemctl --failed --plain --no-legend 2>/dev/null | sed 's/ .*//;s/^/failed=/'; fi
"""


@dataclass(frozen=True, slots=True)
class Expectations:
    """What the machine must not share with the one that the image was made on."""

    public: str  # the build's client key
    host_public: str  # its host key
    machine_id: str = ""  # as returned by seal.seal; '' if unknown
    user: str = "root"  # the account that the build logged in as
    password: bool = False  # whether the recipe itself gives that account a password
    own: str = ""  # the client key for this machine; if given, no other build's key may be present


def check(guest: Guest, expected: Expectations, control: Control, log: Callable[[str], None]) -> list[str]:
    """The problems found, as messages; [] when there are none. Services that failed to start are only logged."""
    own = expected.own.split()[1] if expected.own else ""
    settings = {"key": expected.public.split()[1], "own": own, "comment": f" {COMMENT}"}
    settings |= {"host": expected.host_public.split()[1], "user": expected.user}
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    problems: list[str] = []
    for line in guest.run(head + ACCOUNTS + _LOOK, control=control).splitlines():
        kind, _, value = line.partition("=")
        if kind == "key":
            problems.append(f"the build's key is still in {value}")
        elif kind == "host":
            problems.append(f"the build's host key is still in {value}")
        elif kind == "machine-id" and (not value or value == "uninitialized"):
            problems.append("/etc/machine-id is empty after a boot")
        elif kind == "machine-id" and value == expected.machine_id:
            problems.append("its machine id is that of the machine it was built on")
        elif kind == "password" and not expected.password:
            problems.append(f"the account {value} of the build has a password")
        elif kind == "installer":
            problems.append(f"the installer's {value} is still there")
        elif kind == "failed":
            log(f"did not start: {value}")
    return problems
