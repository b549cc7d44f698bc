"""Who sends a request, behind proxies that are trusted and others that are not."""

from __future__ import annotations

import pytest

from imageflow.api.clients import Clients
from imageflow.errors import ConfigError


def client(trusted: tuple[str, ...], peer: str | None, *told: str) -> str:
    headers = [(b"x-forwarded-for", one.encode()) for one in told]
    return Clients(trusted).of({"client": (peer, 1) if peer else None, "headers": headers})


@pytest.mark.parametrize(
    ("trusted", "peer", "told", "is_"),
    [
        ((), "192.0.2.1", (), "192.0.2.1"),
        ((), "192.0.2.1", ("203.0.113.9",), "192.0.2.1"),
        ((), "::ffff:192.0.2.1", (), "192.0.2.1"),
        ((), "2001:db8:1:2:3:4:5:6", (), "2001:db8:1:2::/64"),
        ((), None, (), "unknown"),
        (("127.0.0.1",), "127.0.0.1", (), "127.0.0.1"),
        (("127.0.0.1",), "127.0.0.1", ("203.0.113.9",), "203.0.113.9"),
        (("127.0.0.1",), "127.0.0.1", ("10.9.9.9, 203.0.113.9",), "203.0.113.9"),
        (("127.0.0.1", "10.0.0.0/8"), "127.0.0.1", ("203.0.113.9, 10.9.9.9",), "203.0.113.9"),
        (("127.0.0.1", "10.0.0.0/8"), "127.0.0.1", ("198.51.100.1", "203.0.113.9", "10.9.9.9"), "203.0.113.9"),
        (("127.0.0.1",), "127.0.0.1", ("203.0.113.9:4711",), "203.0.113.9"),
        (("127.0.0.1",), "127.0.0.1", ("[2001:db8:1:2::9]:4711",), "2001:db8:1:2::/64"),
        (("127.0.0.1",), "127.0.0.1", ("unknown",), "127.0.0.1"),
        (("127.0.0.1",), "127.0.0.1", ("203.0.113.9, _hidden",), "127.0.0.1"),
        (("::1",), "::1", ("203.0.113.9",), "203.0.113.9"),
        (("127.0.0.1",), "::ffff:127.0.0.1", ("203.0.113.9",), "203.0.113.9"),
    ],
)
def test_the_client_is_the_last_one_that_nobody_trusted_told_of(
    trusted: tuple[str, ...], peer: str | None, told: tuple[str, ...], is_: str
) -> None:
    assert client(trusted, peer, *told) == is_


@pytest.mark.parametrize("trusted", ["proxy", "10.0.0.0/33", "10.0.0.1:80"])
def test_a_proxy_that_is_no_address_is_named(trusted: str) -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        Clients((trusted,))
