"""What every compute driver promises of the room that machines share: turns, and machines that are put away."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imageflow.compute import MachineState
from imageflow.compute.capacity import KEPT
from imageflow.errors import Cancelled, NoRoom, TimedOut, Unavailable
from imageflow.host.control import Control
from tests.drivers.compute_site import BUILD, NAME, SPEC, Site, site, until

OTHER = "ba9876543210"


# -- put away ----------------------------------------------------------------------------------------


def test_a_machine_is_put_away_and_comes_back(place: Site) -> None:
    """What a worker finds: nothing of it is taken, nothing but `ensure` and `delete` can be done with it."""
    first = place.ensure()
    address = place.compute.address(NAME)
    assert place.compute.park(NAME, place.control(), lambda: True)
    assert place.compute.state(NAME) is place.open().state(NAME) is MachineState.PARKED
    assert (place.compute.list(), place.running()) == ([NAME], 0)
    assert not place.compute.park(NAME, place.control(), lambda: True)
    for look in (place.compute.address, place.compute.activity):
        with pytest.raises(Unavailable):
            look(NAME)
    for work in (lambda: place.compute.stop(NAME, place.control()), lambda: place.checkpoint("c")):
        with pytest.raises(Unavailable):
            work()
    with pytest.raises(Unavailable):
        place.compute.disk(NAME, place.control())
    assert place.compute.layers.collect(0.0, 0.0, lambda build: False) == []  # its disk stands on them
    again = place.ensure(disk=None)
    assert again.process != first.process and place.compute.state(NAME) is MachineState.RUNNING
    assert place.compute.address(NAME) and address
    place.checkpoint("c")
    assert place.compute.park(NAME, place.control(), lambda: True)
    assert place.ensure(disk=None).state is MachineState.RUNNING
    place.compute.stop(NAME, place.control(), timeout=0.0)
    assert place.compute.state(NAME) is MachineState.STOPPED


def test_only_a_running_machine_that_is_not_wanted_is_put_away(place: Site) -> None:
    assert not place.compute.park(NAME, place.control(), lambda: True)
    assert place.compute.state(NAME) is MachineState.ABSENT
    first = place.ensure()
    assert not place.compute.park(NAME, place.control(), lambda: False)
    assert place.ensure() == first
    place.compute.stop(NAME, place.control(), timeout=0.0)
    assert not place.compute.park(NAME, place.control(), lambda: True)
    assert place.compute.state(NAME) is MachineState.STOPPED


def test_a_machine_that_is_put_away_can_be_deleted(place: Site) -> None:
    place.ensure()
    assert place.compute.park(NAME, place.control(), lambda: True)
    place.compute.delete(NAME)
    assert (place.compute.state(NAME), place.compute.list(), place.left()) == (MachineState.ABSENT, [], [])


# -- in turn -----------------------------------------------------------------------------------------


@pytest.fixture(params=["fake", pytest.param("qemu", marks=pytest.mark.machine(seconds=2))])
def narrow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Room for two machines of 256 MiB, and no third."""
    need = 256 if request.param == "fake" else 256 + 128 + 64
    with site(request.param, tmp_path, max_memory=2 * need + 100) as made:
        yield made


def test_ten_machines_share_the_room_of_two(narrow: Site) -> None:
    workers = [narrow.worker("in-turn", f"{number:012x}-main") for number in range(10)]
    for worker in workers:
        worker.go()
    most = 0
    while any(worker.process.poll() is None for worker in workers):
        most = max(most, narrow.running())
        time.sleep(0.01)
    assert most <= 2
    assert all(int(worker.result().split()[0]) <= 2 for worker in workers)
    assert narrow.compute.list() == []


def test_first_come_first_served_and_the_dead_are_not_waited_for(narrow: Site) -> None:
    names = [f"{number:012x}-main" for number in range(4)]
    for name in names[:2]:
        narrow.ensure(name)
    dead = narrow.worker("ensure", f"{OTHER}-main").go()
    until(lambda: tickets(narrow) == 1)
    order: list[str] = []
    threads = []
    for number, name in enumerate(names[2:], 2):
        threads.append(threading.Thread(target=lambda name=name: (narrow.ensure(name), order.append(name))))
        threads[-1].start()
        until(lambda number=number: tickets(narrow) == number)
    dead.kill()
    for number in range(2):
        narrow.compute.delete(names[number])
        until(lambda number=number: len(order) > number)
    for thread in threads:
        thread.join()
    assert order == names[2:]
    assert any("came before it" in line and "are taken by" in line for line in narrow.log)


def test_waiting_can_be_cancelled_and_has_an_end(narrow: Site) -> None:
    for number in range(2):
        narrow.ensure(f"{number:012x}-main")
    control = narrow.control()
    threading.Timer(0.3, control.stop, [Cancelled()]).start()
    with pytest.raises(Cancelled):
        narrow.ensure(control=control)
    with pytest.raises(TimedOut):
        narrow.ensure(control=Control(time.monotonic() + 0.3, build_id=BUILD))
    assert narrow.compute.state(NAME) is MachineState.ABSENT and tickets(narrow) == 0


def test_a_machine_that_is_put_away_leaves_its_room_to_others(narrow: Site) -> None:
    names = [f"{number:012x}-main" for number in range(3)]
    for name in names[:2]:
        narrow.ensure(name)
    assert "are taken by" in str(narrow.compute.room(names[2], SPEC))
    assert narrow.compute.park(names[0], narrow.control(), lambda: True)
    assert narrow.compute.room(names[2], SPEC) is None
    narrow.ensure(names[2], control=yielding(narrow))
    with pytest.raises(NoRoom) as caught:
        narrow.ensure(names[0], disk=None, control=yielding(narrow))
    assert caught.value.machine == names[0]
    narrow.compute.delete(names[1])
    assert narrow.ensure(names[0], disk=None, control=yielding(narrow)).state is MachineState.RUNNING
    assert tickets(narrow) == 0


def test_who_gives_way_keeps_its_place(narrow: Site) -> None:
    """Builds wait without a worker; the first in line is the first served, however small the others are."""
    names = [f"{number:012x}-main" for number in range(4)]
    for name in names[:2]:
        narrow.ensure(name)
    for name in names[2:]:
        with pytest.raises(NoRoom, match="waits"):
            narrow.ensure(name, control=yielding(narrow))
    assert tickets(narrow) == 2
    narrow.compute.delete(names[0])
    assert "1 came before it" in str(narrow.compute.room(names[3], SPEC))
    with pytest.raises(NoRoom, match="1 came before it"):
        narrow.ensure(names[3], control=yielding(narrow))
    assert narrow.compute.room(names[2], SPEC) is None
    narrow.ensure(names[2], control=yielding(narrow))
    assert "came before it" not in str(narrow.compute.room(names[3], SPEC))
    narrow.compute.delete(names[3])  # its build was aborted: it is waited for no more
    assert tickets(narrow) == 0


def test_a_place_that_nobody_asks_for_is_given_up(narrow: Site) -> None:
    for number in range(2):
        narrow.ensure(f"{number:012x}-main")
    with pytest.raises(NoRoom):
        narrow.ensure(control=yielding(narrow))
    narrow.compute.delete(f"{0:012x}-main")
    (ticket,) = [entry for entry in (narrow.config.machines_dir / ".queue").iterdir() if entry.name.isdigit()]
    *given, seen = json.loads(ticket.read_text())
    for moment in (seen - KEPT, seen + 3600.0):  # its conductor is gone; it is from before a reboot
        ticket.write_text(json.dumps([*given, moment]))
        assert narrow.compute.room(f"{2:012x}-main", SPEC) is None
        assert json.loads(ticket.read_text())[0] == f"{2:012x}-main" if ticket.exists() else True
        narrow.compute.delete(f"{2:012x}-main")


def test_what_can_never_run_is_in_nobody_s_way(narrow: Site) -> None:
    """The host's limits were lowered while it waited."""
    for number in range(2):
        narrow.ensure(f"{number:012x}-main")
    assert narrow.compute.room(NAME, dataclasses.replace(SPEC, memory=10**8)) is None
    assert tickets(narrow) == 0


def yielding(place: Site) -> Control:
    """Of a build, which gives its worker back instead of waiting."""
    control = place.control()
    control.yields = True
    return control


def test_a_stopped_machine_holds_no_memory(narrow: Site) -> None:
    for number in range(2):
        narrow.ensure(f"{number:012x}-main")
    narrow.compute.stop(f"{0:012x}-main", narrow.control(), timeout=0.0)
    narrow.ensure()


def tickets(place: Site) -> int:
    return len([entry for entry in (place.config.machines_dir / ".queue").iterdir() if entry.name.isdigit()])
