"""Which addresses are public, and how exceptions are written."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from imageflow.errors import ConfigError
from imageflow.host import addresses, mirrors


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.0.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1"),
        *(
            "100.64.0.1",
            "100.127.255.255",
            "169.254.169.254",
            "198.18.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
        ),
        *(
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fdff::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:808:808::1",
        ),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8"),
        "::127.0.0.1",
    ],
)
def test_not_public(address: str) -> None:
    assert not addresses.public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1"),
        *("2a00:1450::1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"),
    ],
)
def test_public(address: str) -> None:
    assert addresses.public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("entry", "host", "network", "port"),
    [
        ("cache.lan", "cache.lan", None, None),
        ("Cache.LAN.:3142", "cache.lan", None, 3142),
        ("10.1.2.3", "10.1.2.3", "10.1.2.3/32", None),
        ("10.1.2.3:80", "10.1.2.3", "10.1.2.3/32", 80),
        ("10.1.2.3/8", "10.1.2.3", "10.0.0.0/8", None),
        ("10.0.0.0/8:443", "10.0.0.0", "10.0.0.0/8", 443),
        ("fd00::1", "fd00::1", "fd00::1/128", None),
        ("fd00::/64", "fd00::/64", "fd00::/64", None),
        ("[fd00::1]:80", "fd00::1", "fd00::1/128", 80),
        ("[fd00::]/64:80", "fd00::", "fd00::/64", 80),
    ],
)
def test_an_exception(entry: str, host: str, network: str | None, port: int | None) -> None:
    wanted = None if network is None else ipaddress.ip_network(network)
    assert addresses.parse([entry], "[x] y") == [addresses.Named(host, wanted, port)]


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "a b",
        "host:0",
        "host:65536",
        "host:http",
        "host/8",
        "10.0.0.1/33",
        "[host]:80",
        "http://host/",
        "-x",
        "a;b",
        "::1:::",
    ],
)
def test_not_an_exception(entry: str) -> None:
    with pytest.raises(ConfigError, match=r"\[x\] y"):
        addresses.parse([entry], "[x] y")


def test_the_hosts_mirrors_and_proxies(tmp_path: Path) -> None:
    files = {
        "apt/sources.list": "deb [trusted=yes] http://user:pw@apt.lan:3142/debian bookworm main\n# deb http://old.lan/ x y\n",
        "apt/sources.list.d/a.sources": "Types: deb\nURIs: https://one.lan/debian http://10.1.1.1/two\n",
        "apt/apt.conf.d/01proxy": 'Acquire::http::Proxy "http://127.0.0.1:3143";\n// "http://remark.lan"\n',
        "yum.repos.d/x.repo": "[x]\nbaseurl=https://rpm.lan:8443/$releasever\n",
        "pip.conf": "[global]\nindex-url = https://pip.lan/simple\n",
        "apt/trusted.gpg": "http://never.lan",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "apt/sources.list.d/gone.list").symlink_to("/nowhere")
    environment = {"HTTPS_PROXY": "proxy.lan:3128", "http_proxy": "http://[fd00::5]:8000/", "no_proxy": "http://no.lan"}
    found = mirrors.places(tmp_path, environment)
    assert {("apt.lan", 3142), ("one.lan", 443), ("10.1.1.1", 80), ("127.0.0.1", 3143), ("rpm.lan", 8443)} <= set(found)
    assert {("pip.lan", 443), ("proxy.lan", 3128), ("fd00::5", 8000)} <= set(found)
    assert not {host for host, _ in found} & {"old.lan", "remark.lan", "never.lan", "no.lan"}


def test_a_policy_looks_at_the_address_and_the_port() -> None:
    policy = addresses.Policy(["127.0.0.1:80", "10.0.0.0/8", "named.lan:443"], "[x] y")
    ip = ipaddress.ip_address
    assert policy.permits("a", ip("8.8.8.8"), 1)
    assert policy.permits("a", ip("127.0.0.1"), 80)
    assert policy.permits("a", ip("::ffff:127.0.0.1"), 80)
    assert not policy.permits("a", ip("127.0.0.1"), 81)
    assert not policy.permits("a", ip("::1"), 80)
    assert policy.permits("a", ip("10.255.0.1"), 5)
    assert policy.permits("Named.LAN.", ip("192.168.3.4"), 443)
    assert not policy.permits("named.lan", ip("192.168.3.4"), 80)
    assert not policy.permits("other.lan", ip("192.168.3.4"), 443)


def test_the_hosts_own_addresses_are_not_public() -> None:
    own = addresses.own()
    assert ipaddress.ip_address("127.0.0.1") in own
    policy = addresses.Policy([], "[x] y")
    assert not any(policy.permits("a", address, 80) for address in own)
