"""Which flavor the driver nova takes for a machine: the smallest that is large enough, or the one that was named."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageflow.compute import MachineSpec
from imageflow.compute.nova import flavors
from imageflow.errors import Refused


@dataclass(frozen=True)
class Flavor:
    """As novaclient gives it."""

    name: str
    vcpus: int
    ram: int
    disk: int
    id: str = ""


NANO = Flavor("nano", 1, 128, 1, "f1")


SMALL = Flavor("small", 1, 512, 3, "f2")


MEDIUM = Flavor("medium", 2, 1024, 10, "f3")


LARGE = Flavor("large", 2, 2048, 20, "f4")


ALL = [LARGE, SMALL, NANO, MEDIUM]


@pytest.mark.parametrize(
    ("vcpus", "memory", "disk", "chosen"),
    [
        (1, 128, 1, NANO),
        (1, 129, 1, SMALL),
        (2, 128, 1, MEDIUM),
        (1, 128, 2, SMALL),
        (1, 128, 4, MEDIUM),
        (2, 1025, 10, LARGE),
    ],
)
def test_the_smallest_flavor_that_is_large_enough(vcpus: int, memory: int, disk: int, chosen: Flavor) -> None:
    assert flavors.choose(ALL, MachineSpec(vcpus, memory), disk) is chosen


def test_a_disk_that_fits_exactly_is_worth_more_memory() -> None:
    """The image's disk is as large as the flavor's."""
    exact = Flavor("exact", 8, 8192, 4)
    assert flavors.choose([*ALL, exact], MachineSpec(1, 128), 4) is exact
    assert flavors.choose([*ALL, exact], MachineSpec(1, 128), 5) is MEDIUM


def test_flavors_that_are_equal_are_told_apart_by_name() -> None:
    first, second = Flavor("a", 1, 128, 1), Flavor("b", 1, 128, 1)
    assert flavors.choose([second, first], MachineSpec(1, 128), 1) is first


def test_flavors_without_a_disk_are_not_for_machines() -> None:
    diskless = Flavor("volume", 4, 4096, 0)
    assert flavors.choose([diskless, NANO], MachineSpec(1, 128), 0) is NANO
    with pytest.raises(Refused, match="would need volumes"):
        flavors.choose([diskless], MachineSpec(1, 128), 1)
    with pytest.raises(Refused, match="too small: 0 GiB where 1 are needed"):
        flavors.choose([diskless], MachineSpec(1, 128), 0, "volume")


def test_no_flavor_is_large_enough() -> None:
    with pytest.raises(Refused, match="3 vcpus, 4096 MiB and a disk of 7 GiB") as caught:
        flavors.choose(ALL, MachineSpec(3, 4096), 7)
    assert "openstack flavor list" in caught.value.hint
    with pytest.raises(Refused):
        flavors.choose([], MachineSpec(), 1)


@pytest.mark.parametrize("named", ["large", "f4"])
def test_a_flavor_by_its_name_or_id(named: str) -> None:
    assert flavors.choose(ALL, MachineSpec(1, 128), 1, named) is LARGE


def test_a_flavor_that_was_named_must_be_there_and_large_enough() -> None:
    with pytest.raises(Refused, match="there is no flavor 'huge'"):
        flavors.choose(ALL, MachineSpec(1, 128), 1, "huge")
    with pytest.raises(Refused, match="nano is too small: 1 vcpus where 2 are needed, 128 MiB where 256") as caught:
        flavors.choose(ALL, MachineSpec(2, 256), 1, "nano")
    assert "GiB" not in caught.value.message


SIZES = st.builds(
    Flavor, st.sampled_from("abcdef"), st.integers(1, 8), st.integers(64, 4096), st.integers(0, 20), st.just("")
)


@given(st.lists(SIZES, max_size=12), st.integers(1, 8), st.integers(32, 4096), st.integers(1, 20))
def test_what_is_chosen_is_large_enough_and_nothing_fits_its_disk_better(
    listed: list[Flavor], vcpus: int, memory: int, disk: int
) -> None:
    fitting = [f for f in listed if f.vcpus >= vcpus and f.ram >= memory and f.disk >= disk]
    if not fitting:
        with pytest.raises(Refused):
            flavors.choose(listed, MachineSpec(vcpus, memory), disk)
        return
    chosen = flavors.choose(listed, MachineSpec(vcpus, memory), disk)
    assert chosen in fitting
    assert chosen.disk == min(f.disk for f in fitting)
