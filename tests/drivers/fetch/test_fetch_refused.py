"""What a download makes of a server's answers: no, later, never, elsewhere; and of what is no URL or digest."""

from __future__ import annotations

import time

import pytest

from imageflow import fetch
from imageflow.config import Config
from imageflow.errors import Refused, Unavailable
from imageflow.host.control import Control
from tests.drivers.fetch.downloads import DATA, SHA, Impatient, get
from tests.drivers.fetch.web import Site, serving


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_no_is_no(site: Site, config: Config, said: list[str], code: int) -> None:
    site.codes = [code] * 9
    with pytest.raises(Refused, match=str(code)) as caught:
        get(site, config, said)
    assert caught.value.hint
    assert len(site.seen) == 1


def test_later_is_later(site: Site, config: Config, said: list[str]) -> None:
    site.codes = [503, 429, 500]
    site.headers = {"Retry-After": "0"}
    assert get(site, config, said).read_bytes() == DATA
    assert len(site.seen) == 4


def test_never_is_given_up(site: Site, config: Config, said: list[str]) -> None:
    site.codes = [503] * 99
    with pytest.raises(Unavailable, match="503"):
        get(site, config, said)
    assert len(site.seen) == 6


def test_retry_after_is_obeyed(site: Site, config: Config, said: list[str]) -> None:
    site.codes, site.headers = [503], {"Retry-After": "1"}
    began = time.monotonic()
    get(site, config, said, control=Control())
    assert time.monotonic() - began >= 1.0


def test_a_redirect_loop(site: Site, config: Config, said: list[str]) -> None:
    site.redirect = lambda path: "/disk"
    with pytest.raises(Refused, match="redirects in a loop"):
        get(site, config, said)


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/disk", "http://[::1/x"])
def test_a_redirect_to_what_is_no_web_server(site: Site, config: Config, said: list[str], to: str) -> None:
    site.redirect = lambda path: to
    with pytest.raises(Refused, match="usable URL"):
        get(site, config, said)


def test_nobody_there(config: Config, said: list[str]) -> None:
    with serving(Site(DATA)) as gone:
        pass
    with pytest.raises(Unavailable, match="refused"):
        get(gone, config, said)
    with pytest.raises(Unavailable, match="can't be read"):
        fetch.fetch("http://nowhere.invalid/x", SHA, config=config, control=Impatient(), log=said.append)


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "http://", "//x/y", "disk.iso", "http://[::1/x", "file://elsewhere/x", ""]
)
def test_what_is_no_url(url: str, config: Config, said: list[str]) -> None:
    with pytest.raises(Refused):
        fetch.fetch(url, SHA, config=config, control=Control(), log=said.append)


@pytest.mark.parametrize("sha256", ["", "../../etc/passwd", "0" * 63, "g" * 64])
def test_what_is_no_digest(sha256: str, site: Site, config: Config, said: list[str]) -> None:
    with pytest.raises(Refused, match="64 hexadecimal"):
        get(site, config, said, sha256)
    assert not site.seen
