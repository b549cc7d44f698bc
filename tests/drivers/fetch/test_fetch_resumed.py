"""Downloads that broke off go on where they broke, and begin again when the file is another one."""

from __future__ import annotations

import hashlib
import os

import pytest

from imageflow.config import Config
from imageflow.errors import Corrupt, Unavailable
from tests.drivers.fetch.downloads import DATA, MIB, OTHER, SHA, get, leave_part, part
from tests.drivers.fetch.web import Site


def test_a_broken_connection_goes_on_where_it_broke(site: Site, config: Config, said: list[str]) -> None:
    site.cut = [MIB, MIB]
    assert get(site, config, said).read_bytes() == DATA
    assert [request.get("Range") for request in site.seen] == [None, f"bytes={MIB}-", f"bytes={2 * MIB}-"]
    assert [request.get("If-Range") for request in site.seen] == [None, '"one"', '"one"']


def test_a_broken_connection_of_unknown_length(site: Site, config: Config, said: list[str]) -> None:
    site.length, site.cut = False, [MIB]
    with pytest.raises(Corrupt):
        get(site, config, said)  # it looked whole, and nobody can tell
    assert get(site, config, said).read_bytes() == DATA


def test_a_server_without_ranges_begins_again(site: Site, config: Config, said: list[str]) -> None:
    site.ranges, site.cut = False, [MIB]
    assert get(site, config, said).read_bytes() == DATA
    assert "starts over" in " ".join(said)


def test_a_server_that_always_breaks_off_is_given_up(site: Site, config: Config, said: list[str]) -> None:
    site.ranges, site.cut = False, [MIB] * 50
    with pytest.raises(Unavailable, match=r"can't be read|only in part"):
        get(site, config, said)
    assert len(site.seen) < 20
    assert part(config).stat().st_size == MIB, "what came is kept"
    site.ranges, site.cut = True, []
    assert get(site, config, said).read_bytes() == DATA
    assert site.seen[-1]["Range"] == f"bytes={MIB}-"


def test_a_file_that_changed_meanwhile(site: Site, config: Config, said: list[str]) -> None:
    """Another file under the same URL: its parts never get mixed."""
    leave_part(config, OTHER[:MIB])
    part(config).with_suffix(".from").write_text('{"url": "x", "validator": "\\"zero\\""}')
    assert get(site, config, said).read_bytes() == DATA, "without a word from the server, the digest says it"
    assert "do not fit together" in " ".join(said)


def test_a_changed_etag_begins_again(site: Site, config: Config, said: list[str]) -> None:
    site.cut = [MIB, 0, 0, 0, 0, 0, 0, 0]
    site.data = OTHER
    with pytest.raises(Unavailable):
        get(site, config, said)
    assert part(config).stat().st_size == MIB
    site.data, site.etag, site.cut = DATA, '"two"', []
    assert get(site, config, said).read_bytes() == DATA
    assert site.seen[-1]["If-Range"] == '"one"'
    assert "do not fit" not in " ".join(said)


@pytest.mark.parametrize("size", [len(DATA), len(DATA) + 10])
def test_a_part_that_is_not_shorter(site: Site, config: Config, said: list[str], size: int) -> None:
    leave_part(config, (DATA + bytes(10))[:size])
    assert get(site, config, said).read_bytes() == DATA
    assert len(site.seen) == (0 if size == len(DATA) else 2), "a whole one needs no server; 416 begins again"


def test_another_range_than_asked_for(site: Site, config: Config, said: list[str]) -> None:
    leave_part(config, DATA[:MIB])
    site.wrong_range = True
    assert get(site, config, said).read_bytes() == DATA
    assert "Range" not in site.seen[-1]


def test_wrong_bytes(site: Site, config: Config, said: list[str]) -> None:
    site.data = OTHER
    with pytest.raises(Corrupt) as caught:
        get(site, config, said)
    assert SHA in caught.value.message
    assert hashlib.sha256(OTHER).hexdigest() in caught.value.message
    assert os.listdir(part(config).parent) == []
    assert len(site.seen) == 1
