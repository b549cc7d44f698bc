"""Which tests run beside which: many at a time, but machines and diskimage-builder only as many as there are cores.

    @pytest.mark.machine               # boots QEMU or runs diskimage-builder: some 10 s of a whole core
    @pytest.mark.machine(seconds=200)  # for that long

`pytest -n WORKERS --dist loadgroup` uses these groups. Tests wait most of their time, for leases, polls and brokers, so there are more
workers than cores. Machines compute all the time: they are divided into as many groups as there are cores, and one worker runs a
group. The tests of a module that share a fixture, such as a server, are a group, too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

_SECONDS = 10  # of a test that does not say
_SLICED = 60  # of one of a crash suite


def _seconds(item: pytest.Item, mark: pytest.Mark) -> float:
    sliced = item.get_closest_marker("sliced") is not None
    return float(mark.kwargs.get("seconds", _SLICED if sliced else _SECONDS))


def _shares(item: pytest.Item) -> bool:
    """Whether it uses a fixture that its module has one of."""
    fixtures = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]  # there is no public way to their scopes
    return any(found[-1].scope == "module" for found in fixtures.values())


def deal(seconds: Sequence[float], hands: int) -> list[int]:
    """Which hand each of these goes to, so that all end at about the same time; the longest first."""
    loads, hand = [0.0] * hands, [0] * len(seconds)
    for place in sorted(range(len(seconds)), key=lambda place: -seconds[place]):
        hand[place] = min(range(hands), key=loads.__getitem__)
        loads[hand[place]] += seconds[place]
    return hand


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "xdist_group(name): pytest-xdist's own, also where it is switched off")


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups; slices comes before, and has said what is slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marks = [(item, item.get_closest_marker("machine")) for item in items if not item.get_closest_marker("cloud")]
    machines = {item: _seconds(item, mark) for item, mark in marks if mark is not None}
    for slow in (False, True):  # apart: whether the slow ones run at all is not known yet
        dealt = [item for item in machines if (item.get_closest_marker("slow") is not None) is slow]
        hands = deal([machines[item] for item in dealt], os.cpu_count() or 1)
        for item, hand in zip(dealt, hands, strict=True):
            item.add_marker(pytest.mark.xdist_group(f"machine {hand}"))
    for item in items:
        if _shares(item) and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: -machines.get(item, 0.0))  # those of one length, and all others, stay in their order


def pytest_collection_finish(session: pytest.Session) -> None:
    """Machines that are not grouped would all run at once, and tests fail for it: stop here instead."""
    if getattr(session.config.option, "loadgroup", False):
        loose = [
            item.nodeid for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid
        ]
        if loose:
            raise pytest.UsageError(f"pytest-xdist does not group with pytest {pytest.__version__}: {loose[0]}")
