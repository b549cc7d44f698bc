"""Which network the driver nova puts a server into, and the address at which the server answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from imageflow.compute import Address
from imageflow.compute.nova.network import Network, choose
from imageflow.config.clouds import NOVA, NovaConfig, OpenStackConfig
from imageflow.errors import Refused, Unavailable
from imageflow.openstack import Cloud

BUILD = {"id": "n1", "name": "build", "router:external": False}


OTHER = {"id": "n2", "name": "other", "router:external": False}


OUTSIDE = {"id": "n3", "name": "outside", "router:external": True}


def test_the_only_network_is_chosen() -> None:
    assert choose([BUILD], None) == "n1"
    assert choose([OUTSIDE, BUILD], None) == "n1"  # floating addresses come from there, machines do not live in it
    assert choose([OUTSIDE], None) == "n3"  # a provider's network, and nothing else
    assert choose([{"id": "n9", "name": ""}], None) == "n9"


@pytest.mark.parametrize(
    ("wanted", "chosen"), [("other", "n2"), ("n2", "n2"), ("outside", "n3"), ("n3", "n3")], ids=str
)
def test_a_network_by_its_name_or_id(wanted: str, chosen: str) -> None:
    assert choose([BUILD, OTHER, OUTSIDE], wanted) == chosen


@pytest.mark.parametrize(
    ("networks", "wanted", "said"),
    [
        ([], None, "there is no network at all"),
        ([], "third", "there is no network 'third'"),
        ([BUILD, OTHER, OUTSIDE], None, "there are several networks: build, other"),
        ([BUILD, OTHER], "third", "there is no network 'third'; there are: build, other"),
        ([BUILD, {**OTHER, "name": "build"}], "build", "there are 2 networks 'build'"),
        ([OUTSIDE, {**OUTSIDE, "id": "n4", "name": ""}], None, "there are several networks: n4, outside"),
    ],
)
def test_a_network_that_can_not_be_chosen(networks: list[Mapping[str, Any]], wanted: str | None, said: str) -> None:
    with pytest.raises(Refused) as caught:
        choose(networks, wanted)
    assert caught.value.message == said
    assert "[nova] network" in caught.value.hint


def nova(**options: Any) -> Network:
    """A network of which nothing is asked."""
    given = {option.dest: option.default for option in NOVA}
    return Network(Cloud(OpenStackConfig("site", None, None, 60.0, 0.0)), NovaConfig(**{**given, **options}))


def address(kind: str, value: str, version: int = 4) -> dict[str, Any]:
    return {"OS-EXT-IPS:type": kind, "addr": value, "version": version}


FIXED, FIXED6, FLOATING = (
    address("fixed", "10.0.0.5"),
    address("fixed", "2001:db8::5", 6),
    address("floating", "192.0.2.7"),
)


@dataclass
class Addressed:
    """A server in a network."""

    found: list[dict[str, Any]] = field(default_factory=list)

    @property
    def addresses(self) -> dict[str, list[dict[str, Any]]]:
        return {"build": self.found}


def test_where_a_machine_answers() -> None:
    inside, outside = nova(), nova(floating_network="outside")
    assert inside.address(Addressed([FIXED6, FIXED]), "m") == Address("10.0.0.5", 22)
    assert inside.address(Addressed([FIXED6]), "m") == Address("2001:db8::5", 22)
    assert inside.address(Addressed([FLOATING, FIXED]), "m") == Address("10.0.0.5", 22)  # somebody else gave it that
    assert outside.address(Addressed([FIXED, FIXED6, FLOATING]), "m") == Address("192.0.2.7", 22)
    with pytest.raises(Unavailable, match="m has no address yet"):
        inside.address(Addressed(), "m")
