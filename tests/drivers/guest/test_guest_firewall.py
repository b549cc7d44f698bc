"""Firewalls that a step loads: the build's port is open in them, by nft and by iptables."""

from __future__ import annotations

import subprocess

import pytest

from imageflow.guest import way_in_server
from tests.drivers.machine import need

# A machine and its build host, each in a network of its own.
_NETWORK = """
set -eu
ip link set lo up
server=
unshare --net sleep 60 >/dev/null 2>&1 &
host=$!
trap 'kill $host $server 2>/dev/null' EXIT
while [ "$(readlink /proc/$host/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add guest0 type veth peer name host0
ip link set host0 netns $host
ip addr add 10.9.0.1/24 dev guest0
ip link set guest0 up
nsenter -t $host -n sh -c 'ip addr add 10.9.0.2/24 dev host0; ip link set host0 up'
python3 -m http.server 4022 --bind 10.9.0.1 >/dev/null 2>&1 &
server=$!
reach() {
    nsenter -t $host -n python3 -c '
import socket, sys, time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    try:
        socket.create_connection(("10.9.0.1", 4022), 1).close()
        sys.exit(0)
    except OSError:
        time.sleep(0.05)
sys.exit(1)' "$1"
}
reach 10 || { echo 'no network'; exit 9; }
"""
RULES = {
    "nft": "nft -f - <<E\ntable inet filter {\n chain input {\n  type filter hook input priority 0; policy drop;\n }\n}\nE",
    "nft in and out": (
        "nft -f - <<E\ntable ip a {\n chain early { type filter hook prerouting priority -300; policy drop; }\n"
        " chain in { type filter hook input priority 0; policy accept; tcp dport 1-65535 drop\n }\n}\n"
        "table inet b {\n chain out { type filter hook output priority 0; policy drop; }\n}\nE"
    ),
    "iptables": "iptables -P INPUT DROP; iptables -P OUTPUT DROP; iptables -A INPUT -j DROP",
}


@pytest.mark.parametrize("name", RULES)
def test_the_port_is_open(name: str) -> None:
    need("nft", "iptables", "unshare", "ip", root=True)
    script = f"""
{RULES[name]}
! reach 1.5 || {{ echo 'not closed'; exit 7; }}
set +e
port=4022
{way_in_server.FIREWALL}
open_nft; open_iptables
reach 5 || {{ echo 'still closed'; nft list ruleset; exit 6; }}
before=$(nft -s list ruleset)
open_nft; open_iptables
[ "$before" = "$(nft -s list ruleset)" ] || {{ echo 'not idempotent'; exit 5; }}
"""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", _NETWORK + script], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stdout + done.stderr
