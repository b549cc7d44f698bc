"""What a guest reaches: the internet and what is allowed; not this host, not other guests, not private networks."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.background.flag import Flag
from imageflow.compute.qemu import account
from imageflow.compute.qemu.driver import QemuCompute
from imageflow.compute.qemu.firewall import Firewall
from imageflow.errors import ConfigError
from imageflow.inputs import aptsources
from tests.drivers.compute_site import BUILD, NAME, QemuSite, Site, site, until
from tests.drivers.machine import need
from tests.drivers.qemu.qemu_machines import folder_of, process_of

GREETING = "HELLO"
OTHER = f"{BUILD}-other"
# Beyond a host of another network: metadata, private networks, carrier-grade NAT; and one address of the internet.
ELSEWHERE = ("169.254.169.254", "10.{n}.0.2", "172.16.{n}.2", "192.168.{n}.2", "100.64.{n}.2", "198.18.{n}.2")
OUTSIDE = "11.{n}.0.2"
HERE = ("10.{n}.0.1", "11.{n}.0.1", "169.254.{n}.1", "100.64.{n}.1")
PORTS = (5001, 5002)


class Greeter:
    """Says hello to whatever connects, on many ports."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        self._sockets = [self._open(*address) for address in addresses]

    def _open(self, host: str, port: int) -> socket.socket:
        server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(64)
        threading.Thread(target=self._greet, args=(server,), daemon=True).start()
        return server

    @property
    def ports(self) -> list[int]:
        return [server.getsockname()[1] for server in self._sockets]

    @staticmethod
    def _greet(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                with client, contextlib.suppress(OSError):
                    client.sendall(f"{GREETING}\n".encode())

    def close(self) -> None:
        for server in self._sockets:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()


@pytest.fixture
def neighbour() -> Iterator[int]:
    """Another host, in a namespace: it has the addresses ELSEWHERE and OUTSIDE; -> the number in them."""
    need("ip", "nft", root=True)
    number = 20 + secrets.randbelow(200)
    tag = f"ift{secrets.token_hex(3)}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    addresses = [address.format(n=number) for address in (*ELSEWHERE, OUTSIDE)]
    ip("netns", "add", tag)
    try:
        ip("link", "add", tag, "type", "veth", "peer", "name", "there", "netns", tag)
        for address in HERE:
            ip("address", "add", f"{address.format(n=number)}/32", "dev", tag)
        ip("link", "set", tag, "up")
        ip("-n", tag, "link", "set", "there", "up")
        ip("-n", tag, "link", "set", "lo", "up")
        ip("-n", tag, "route", "add", "default", "dev", "there")
        for address in addresses:
            ip("-n", tag, "address", "add", f"{address}/32", "dev", "there")
            ip("route", "add", f"{address}/32", "dev", tag)
        greeting = ["ip", "netns", "exec", tag, sys.executable, "-c", _SERVER, *map(str, PORTS)]
        with subprocess.Popen(greeting, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline() == b"ready\n"
                yield number
            finally:
                server.kill()
    finally:
        subprocess.run(["ip", "link", "delete", tag], check=False)
        ip("netns", "delete", tag)


_SERVER = f"""
import selectors, socket, sys
wait = selectors.DefaultSelector()
for port in sys.argv[1:]:
    server = socket.create_server(("0.0.0.0", int(port)))
    wait.register(server, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in wait.select():
        client, _ = key.fileobj.accept()
        client.sendall(b"{GREETING}\\n")
        client.close()
"""
_PROBE = """
for each in {places}; do
    ( answer=$(timeout 4 nc ${{each%:*}} ${{each#*:}} < /dev/null 2> /dev/null | head -c 5); echo "$each=$answer" ) &
done
wait
"""


@pytest.mark.machine(seconds=60)
def test_a_guest_reaches_the_internet_and_what_is_allowed_and_nothing_else(tmp_path: Path, neighbour: int) -> None:
    """Each of these places answers on this host; see the first assertion."""
    own = [("0.0.0.0", 0)] * 4
    greeter = Greeter(*own, ("127.0.0.1", 0), ("127.0.0.1", 0))
    everywhere, (mirror, door) = greeter.ports[:4], greeter.ports[4:]
    elsewhere = [address.format(n=neighbour) for address in ELSEWHERE]
    outside, here = OUTSIDE.format(n=neighbour), [address.format(n=neighbour) for address in HERE]
    allow = ("mirrors", f"127.0.0.1:{mirror}", f"{elsewhere[1]}:{PORTS[0]}")
    try:
        with site("qemu", tmp_path, guests=True, network="auto", allow=allow) as place:
            assert isinstance(place, QemuSite)
            place.ensure(seed=place.seed())
            place.ensure(OTHER, seed=place.seed("i-2"))
            forward = place.compute.address(OTHER).port
            with place.inside(OTHER):  # it is up: its port answers
                pass
            own_addresses = [*here, *_own_addresses()]
            refused = {f"10.0.2.2:{port}" for port in (*everywhere, door, forward, place.compute.address(NAME).port)}
            refused |= {f"{address}:{port}" for address in own_addresses for port in everywhere}
            refused |= {f"{address}:{port}" for address in elsewhere for port in PORTS}
            refused.remove(f"{elsewhere[1]}:{PORTS[0]}")
            allowed = {f"10.0.2.2:{mirror}", f"{elsewhere[1]}:{PORTS[0]}", *(f"{outside}:{port}" for port in PORTS)}
            assert len(refused) >= 40 - len(allowed)
            assert all(_answers(place) for place in refused | allowed if not place.startswith("10.0.2.2"))
            with place.inside() as shell:
                lines = shell(_PROBE.format(places=" ".join(sorted(refused | allowed)))).split()
                assert {line.partition("=")[0] for line in lines} == refused | allowed
                assert {line.partition("=")[0] for line in lines if line.partition("=")[2]} == allowed
                for source in [each for each in aptsources.read(Path("/etc/apt")) if each.uri.startswith("http:")][:1]:
                    release = f"{source.uri}/dists/{source.suites[0]}/InRelease"  # so packages can be installed
                    assert "BEGIN PGP SIGNED MESSAGE" in shell(f"wget -q -O - {release} | head -n 1")
    finally:
        greeter.close()


def _own_addresses() -> list[str]:
    import psutil

    found = [each for some in psutil.net_if_addrs().values() for each in some if each.family == socket.AF_INET]
    return [each.address for each in found if not ipaddress.ip_address(each.address).is_loopback][:2]


def _answers(place: str) -> bool:
    host, _, port = place.partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        return bool(connection.recv(5))


@pytest.mark.machine(seconds=30)
def test_a_restricted_guest_reaches_only_what_is_allowed(tmp_path: Path) -> None:
    greeter = Greeter(("127.0.0.1", 0), ("127.0.0.1", 0), ("::1", 0))
    one, other, six = greeter.ports
    allow = (f"127.0.0.1:{one}", f"[::1]:{six}", "10.0.0.0/8:80", "anything.invalid")
    expected = {f"10.0.2.100:{one}", f"10.0.2.101:{six}"}
    places = expected | {f"10.0.2.2:{one}", f"10.0.2.2:{other}", f"10.0.2.100:{other}", "203.0.113.80:80"}
    try:
        with site("qemu", tmp_path, guests=True, network="restricted", allow=allow) as place:
            assert isinstance(place, QemuSite)
            place.ensure(seed=place.seed())
            with place.inside() as shell:
                lines = shell(_PROBE.format(places=" ".join(sorted(places)))).split()
                assert {line.partition("=")[0] for line in lines} == places
                assert {line.partition("=")[0] for line in lines if line.partition("=")[2]} == expected
            assert len(place.compute.list()) == place.running() == 1  # what carries the connections is no machine
    finally:
        greeter.close()


@pytest.fixture
def fenced(tmp_path: Path) -> Iterator[Site]:
    """Machines with nothing to boot, and a firewall."""
    need("nft", root=True)
    with site("qemu", tmp_path, network="filtered", allow=("127.0.0.1:7", "[fd00::1]/64:80")) as made:
        yield made


def as_machine(place: Site, code: str, folder: int | None = None) -> list[str]:
    """Run Python as the user of the machine's QEMU; -> its output's lines."""
    user = account.of_machine(place.config.machines_dir, NAME)
    begin = f"import errno, os, socket; os.setgroups([]); os.setresgid(*[{user}] * 3); os.setresuid(*[{user}] * 3)"
    words = [sys.executable, "-IS", "-c", f"{begin}\n{code}"]
    pass_fds = [] if folder is None else [folder]
    done = subprocess.run(words, pass_fds=pass_fds, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


_CONNECT = """
for host, kind in {cases}:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as it:
        it.settimeout(2)
        try:
            it.connect((host, 9))
            it.send(b"x")
            print(host, int(kind), "sent")
        except OSError as error:
            print(host, int(kind), errno.errorcode.get(error.errno, str(error)))
"""


@pytest.mark.machine(seconds=10)
def test_every_form_of_a_private_address_is_refused(fenced: Site) -> None:
    """As a QEMU that its guest has taken over would try: QEMU's user network has IPv4 alone."""
    fenced.ensure()
    four = (
        "127.0.0.1",
        "127.9.9.9",
        "10.1.1.1",
        "172.31.0.1",
        "192.168.1.1",
        "100.127.1.1",
        "169.254.169.254",
        "0.0.0.0",
    )
    six = ("::1", "::ffff:127.0.0.1", "::ffff:10.1.1.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::1")
    six += ("fd00::9", "fe80::1", "fec0::1", "ff02::1", "2001:db8::1", "2001::1", "::")
    cases = [(host, kind) for host in (*four, *six) for kind in (1, 2)]
    assert [socket.SOCK_STREAM, socket.SOCK_DGRAM] == [1, 2]
    said = as_machine(fenced, _CONNECT.format(cases=[(host, int(kind)) for host, kind in cases]))
    assert len(said) == len(cases)
    # fe80::1 names no interface: the kernel itself refuses it. No route to a network is as good as a refusal.
    good = ("EPERM", "EACCES", "EHOSTUNREACH", "ENETUNREACH", "EINVAL", "EADDRNOTAVAIL", "ECONNREFUSED")
    assert [line for line in said if not line.endswith(good)] == []
    # The rule stops them, not the lack of a listener:
    assert "127.0.0.1 1 EHOSTUNREACH" in said
    assert "::1 1 EACCES" in said
    assert "127.0.0.1 2 EPERM" in said


def test_the_firewall_is_there_as_long_as_machines_are(fenced: Site) -> None:
    firewall = Firewall(fenced.config.machines_dir)
    assert not firewall.stands()
    fenced.ensure()
    fenced.ensure(OTHER)
    assert firewall.stands()
    subprocess.run(
        ["nft", "delete", "table", "inet", firewall.table], check=True
    )  # as a restart of the host's firewall
    fenced.compute.renew()
    assert firewall.stands()
    fenced.compute.delete(NAME)
    assert firewall.stands()
    fenced.compute.delete(OTHER)
    assert not firewall.stands()
    fenced.compute.renew()
    assert not firewall.stands()


def test_the_firewall_comes_back_at_once_while_something_serves(fenced: Site) -> None:
    firewall, stop = Firewall(fenced.config.machines_dir), Flag()
    fenced.ensure()
    watching = threading.Thread(target=QemuCompute(fenced.config).watch, args=(stop,))
    watching.start()
    try:
        for _ in range(3):
            subprocess.run(["nft", "delete", "table", "inet", firewall.table], check=False)
            until(firewall.stands, 5.0)
        fenced.compute.delete(NAME)
        assert not firewall.stands()
    finally:
        stop.set()
        watching.join()
    assert not firewall.stands()


def test_a_worker_that_was_killed_leaves_a_machine_behind_its_firewall(fenced: Site) -> None:
    worker = fenced.worker("ensure", NAME).go()
    until(lambda: fenced.running() == 1)
    worker.kill()
    firewall = Firewall(fenced.config.machines_dir)
    assert firewall.stands()
    again = QemuCompute(fenced.config)
    assert again.list() == [NAME]
    again.delete(NAME)
    assert not firewall.stands()


def test_qemu_is_confined(fenced: Site) -> None:
    """It runs as a user of its own, without any right of root's, and makes no programs; its folder stays ours."""
    fenced.ensure()
    machine, process = folder_of(fenced), process_of(fenced)
    user = account.of_machine(fenced.config.machines_dir, NAME)
    assert user
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
    assert status["Uid"].split() == status["Gid"].split() == [str(user)] * 4
    assert status["Groups"].split() in ([], [str(user)])
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert user != account.of_machine(fenced.config.machines_dir, OTHER)
    folder = os.open(machine.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        said = as_machine(fenced, _WRITES.format(folder=folder, name=NAME), folder)
    finally:
        os.close(folder)
    assert said == ["PermissionError"] * 5 + ["b'QFI'"]


_WRITES = """
os.fchdir({folder})
for attempt in (
    lambda: os.listdir("."),
    lambda: open("new", "w"),
    lambda: os.rename("disk-0.qcow2", "gone"),
    lambda: open("machine.json"),
    lambda: open("../{name}/machine.json"),
):
    try:
        attempt()
        print("done")
    except OSError as error:
        print(type(error).__name__)
print(open("disk-0.qcow2", "rb").read(3))
"""


def test_a_saved_disk_no_longer_belongs_to_the_machine(fenced: Site) -> None:
    fenced.ensure()
    layer = fenced.checkpoint("a")
    assert fenced.compute.screenshot(NAME) is not None  # QEMU may write into a file that is made for it
    status = Path(layer.source.path).stat()
    assert (status.st_uid, status.st_mode & 0o777) == (0, 0o600)


def test_without_a_firewall_machines_are_restricted_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Site("qemu", tmp_path).config
    qemu = dataclasses.replace(config.qemu, allow=("127.0.0.1:3142",))
    need("nft", root=True)
    assert QemuCompute(dataclasses.replace(config, qemu=qemu)).notice() == ""
    open_to_all = dataclasses.replace(qemu, network="open")
    assert "every service of this host" in QemuCompute(dataclasses.replace(config, qemu=open_to_all)).notice()
    monkeypatch.setenv("PATH", str(tmp_path))
    said = QemuCompute(dataclasses.replace(config, qemu=qemu)).notice()
    assert "install nftables" in said
    assert "no name service" in said
    assert "127.0.0.1:3142 at 10.0.2.100" in said
    filtered = dataclasses.replace(qemu, network="filtered")
    with pytest.raises(ConfigError, match="install nftables"):
        QemuCompute(dataclasses.replace(config, qemu=filtered)).notice()
