"""Where a download leads: to the internet and what is allowed, over any redirect and whatever a name means a moment later."""

from __future__ import annotations

import dataclasses
import itertools
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from imageflow.config import Config
from imageflow.errors import Refused
from imageflow.fetch import guard
from tests.drivers.fetch.downloads import DATA, get
from tests.drivers.fetch.web import Site, serving


@pytest.fixture
def other() -> Iterator[Site]:
    """Another service of this host."""
    with serving(Site(DATA)) as served:
        yield served


def allowing(config: Config, *entries: str) -> Config:
    return dataclasses.replace(config, downloads=dataclasses.replace(config.downloads, allow=entries))


def place(site: Site) -> str:
    return site.url.removeprefix("http://").removesuffix("/disk")


def test_by_default_not_to_this_host(site: Site, config: Config, said: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        get(site, allowing(config, "mirrors"), said)
    assert f"add {place(site)} to [downloads] allow" in refused.value.hint
    assert site.seen == []
    assert get(site, allowing(config, place(site)), said).read_bytes() == DATA


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", "127.1"])
def test_no_redirect_leads_into_this_host(site: Site, other: Site, config: Config, said: list[str], host: str) -> None:
    """However its address is written; the last of two redirects is the bad one."""
    port = other.url.split(":")[2].removesuffix("/disk")
    steps = {"/disk": "/again", "/again": f"http://{host}:{port}/disk"}
    site.redirect = steps.get
    with pytest.raises(Refused, match=r"this host, or in a private network"):
        get(site, allowing(config, place(site)), said)
    assert other.seen == []
    assert [request["path"] for request in site.seen] == ["/disk", "/again"]


@pytest.mark.parametrize("to", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"])
def test_a_redirect_is_http(site: Site, config: Config, said: list[str], to: str) -> None:
    site.redirect = lambda path: to
    with pytest.raises(Refused, match="is not a usable URL"):
        get(site, config, said)


def test_a_proxy_is_not_asked_for_this_host(
    site: Site, other: Site, config: Config, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://{place(site)}")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(Refused, match=r"this host, or in a private network"):
        get(other, allowing(config, place(site)), said)
    assert site.seen == other.seen == []
    assert get(other, allowing(config, "127.0.0.1"), said).read_bytes() == DATA


def test_the_address_that_is_checked_is_the_one_that_is_connected_to(
    site: Site, other: Site, config: Config, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is allowed at one moment and this host's other service at the next: it is looked up once for both."""
    port = int(place(site).split(":")[1])
    answers = itertools.cycle(["127.0.0.1", "127.0.0.2"])
    asked: list[str] = []

    def look_up(host: str, port: int, *more: Any, **options: Any) -> Any:
        address = next(answers) if host == "rebound.invalid" else host
        asked.extend([host] if host == "rebound.invalid" else [])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    policy = guard.policy(allowing(config, "127.0.0.1"))
    with guard.connect(policy, ("rebound.invalid", port), 5.0) as connection:
        assert connection.getpeername() == ("127.0.0.1", port)
    assert asked == ["rebound.invalid"]
    with pytest.raises(Refused):
        guard.connect(policy, ("rebound.invalid", port), 5.0)
