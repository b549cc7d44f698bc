"""The programs that a cloud needs on its machine."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cloud.daemons import rabbit_program

# One program of each package; bindep.txt has their names (profile: cloud).
_PROGRAMS = (
    "mariadbd mariadb-install-db mariadb epmd libvirtd virtlogd virsh uwsgi_python3 keystone-manage"
    " keystone-wsgi-public placement-api placement-manage glance-api glance-manage nova-api nova-conductor"
    " nova-scheduler nova-compute nova-manage neutron-server neutron-db-manage neutron-linuxbridge-agent"
    " neutron-dhcp-agent heat-api heat-engine heat-manage qemu-system-x86_64 qemu-img genisoimage dnsmasq sudo ip unshare nsenter setpriv"
)
_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")  # the services' PATH


def absent() -> list[str]:
    """The programs that are missing on this machine."""
    missing = [p for p in _PROGRAMS.split() if not any(Path(f, p).exists() for f in _FOLDERS)]
    if rabbit_program() is None:
        missing.append("rabbitmq-server")
    if os.geteuid() != 0:
        missing.append("root")
    return missing
