"""The driver nova, where servers are as operators and half-done requests leave them."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import pytest

from imageflow.compute import MachineState
from imageflow.compute.nova.driver import NovaCompute
from imageflow.compute.nova.servers import BLANK, DISK, INSTALLING, MACHINE, PARKED, STAGE
from imageflow.errors import Cancelled, ImageflowError, MachineLost, NoRoom, Refused, Unavailable
from imageflow.model import Event
from imageflow.openstack.cloud_errors import OverQuota
from tests.drivers.nova.nova_machine import BUILD, KEY, NAME, OTHER, SPEC, control, ensure, ours
from tests.servers.nova import Nova, configured


class Clock:
    """The time of the driver, which can be put on."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("imageflow.compute.nova.driver.time", made)
    return made


@pytest.mark.parametrize(
    ("type", "key"), [("nova.instance.power_off.end", "uuid"), ("nova.compute.instance.power_off.end", "instance_id")]
)
def test_what_nova_tells_of_a_server_is_seen_before_the_next_poll(
    nova: Nova, tmp_path: Path, type: str, key: str
) -> None:
    server = ours(nova, "ACTIVE")
    compute = NovaCompute(configured(nova, tmp_path, poll=3600.0))
    assert compute.state(NAME) is MachineState.RUNNING
    server |= {"status": "SHUTOFF", "OS-EXT-STS:power_state": 4}
    for other in (
        Event("nova", "1", type, data={key: str(uuid.uuid4())}),
        Event("x", "2", "x", data={key: server["id"]}),
    ):
        compute.heard(other)
        assert compute.state(NAME) is MachineState.RUNNING
    compute.heard(Event("nova", "3", type, data={key: server["id"]}))
    assert compute.state(NAME) is MachineState.STOPPED


@pytest.mark.parametrize(
    ("status", "first"),
    [
        ("SHUTOFF", "os-start"),
        ("PAUSED", "unpause"),
        ("SUSPENDED", "resume"),
        ("SHELVED", "unshelve"),
        ("SHELVED_OFFLOADED", "unshelve"),
        ("RESCUE", "unrescue"),
        ("ERROR", "reboot"),
    ],
)
def test_a_server_that_somebody_put_aside_comes_back(nova: Nova, compute: NovaCompute, status: str, first: str) -> None:
    server = ours(nova, status, 4)
    assert ensure(compute).state is MachineState.RUNNING
    assert (server["status"], nova.acted) == ("ACTIVE", [first])


@pytest.mark.parametrize(
    ("status", "before"), [("PAUSED", ["unpause"]), ("SUSPENDED", ["resume"]), ("RESCUE", ["unrescue"]), ("ACTIVE", [])]
)
def test_a_server_that_somebody_put_aside_is_powered_off(
    nova: Nova, compute: NovaCompute, status: str, before: list[str]
) -> None:
    server = ours(nova, status)
    compute.stop(NAME, control())
    assert (server["status"], nova.acted) == ("SHUTOFF", [*before, "os-stop"])


@pytest.mark.parametrize(
    ("forbidden", "status", "acted"),
    [((), "SHELVED_OFFLOADED", ["shelve", "unshelve"]), (("shelve",), "SHUTOFF", ["os-stop", "os-start"])],
)
def test_a_server_is_put_away_and_comes_back(
    nova: Nova, compute: NovaCompute, forbidden: tuple[str, ...], status: str, acted: list[str]
) -> None:
    nova.forbidden |= set(forbidden)
    server = ours(nova, "ACTIVE")
    assert not compute.park(NAME, control(), lambda: False)
    assert nova.acted == []
    assert compute.park(NAME, control(), lambda: True)
    assert (server["status"], compute.state(NAME)) == (status, MachineState.PARKED)
    assert not compute.park(NAME, control(), lambda: True)
    with pytest.raises(Unavailable, match="is put away"):
        compute.stop(NAME, control())
    with pytest.raises(Unavailable):
        compute.checkpoint(NAME, KEY, parent=None, title="t", build_id=BUILD, control=control())
    if status == "SHELVED_OFFLOADED":  # Nova changes no metadata in this state
        assert server["metadata"][PARKED] == "yes"
    assert ensure(compute, disk=None).process == server["id"]
    assert (nova.acted, compute.state(NAME)) == (acted, MachineState.RUNNING)
    compute.stop(NAME, control())
    assert compute.state(NAME) is MachineState.STOPPED


def test_a_server_that_is_being_put_away_counts_as_put_away(nova: Nova, compute: NovaCompute) -> None:
    """Its build goes on meanwhile: it waits for Nova, and brings it back."""
    server = ours(nova, "ACTIVE", **{"OS-EXT-STS:task_state": "shelving_image_uploading"})
    server["metadata"][PARKED] = "yes"
    assert compute.state(NAME) is MachineState.PARKED
    with pytest.raises(Unavailable):
        compute.address(NAME)

    def done() -> None:
        server.update({"status": "SHELVED_OFFLOADED", "OS-EXT-STS:power_state": 4, "OS-EXT-STS:task_state": None})

    timer = threading.Timer(0.5, done)
    timer.start()
    assert ensure(compute, disk=None).state is MachineState.RUNNING
    timer.join()
    assert nova.acted == ["unshelve"]


@pytest.mark.parametrize(("status", "stage"), [("RESCUE", INSTALLING), ("SHUTOFF", DISK), ("PAUSED", DISK)])
def test_what_can_not_be_put_away_stays_as_it_is(nova: Nova, compute: NovaCompute, status: str, stage: str) -> None:
    server = ours(nova, status, 4 if status == "SHUTOFF" else 1, stage)
    assert not compute.park(NAME, control(), lambda: True)
    assert (server["status"], nova.acted) == (status, [])


def test_a_full_quota_is_waited_for_without_a_worker(nova: Nova, compute: NovaCompute) -> None:
    """A build gives its worker back; the first in line is the first that tries again."""
    other = ours(nova, "ACTIVE")
    other["metadata"] |= {MACHINE: f"{OTHER}-main"}
    other["name"] = f"{OTHER}-main"
    nova.quota = 1
    yielding = control()
    yielding.yields = True
    with pytest.raises(NoRoom, match=r"waits: .*Quota exceeded") as caught:
        ensure(compute, control=yielding)
    assert caught.value.machine == NAME
    assert "Quota exceeded" in str(compute.room(NAME, SPEC))
    assert compute.room("ca9876543210-main", SPEC) == "1 came before it"
    compute.delete(NAME)
    assert compute.room("ca9876543210-main", SPEC) is None


def test_an_installer_that_could_not_be_booted_is_booted_again(
    nova: Nova, compute: NovaCompute, tmp_path: Path
) -> None:
    """Nova refuses to change what a server in ERROR says of itself."""
    server = ours(nova, "ERROR", 0, INSTALLING)
    iso = tmp_path / "media.iso"
    iso.write_bytes(bytes(1 << 16))
    assert ensure(compute, disk=None, cdrom=iso).process == server["id"]
    assert (server["status"], nova.acted) == ("RESCUE", ["rescue"])


def test_a_blank_server_that_broke_is_made_anew(nova: Nova, compute: NovaCompute, tmp_path: Path) -> None:
    broken = ours(nova, "ERROR", 0, BLANK)
    iso = tmp_path / "media.iso"
    iso.write_bytes(bytes(1 << 16))
    machine = ensure(compute, disk=None, cdrom=iso)
    assert machine.process != broken["id"]
    assert list(nova.servers) == [machine.process]
    assert nova.servers[machine.process]["metadata"][STAGE] == INSTALLING
    (blank,) = (image for image in nova.images.values() if image["name"] == f"{NAME}-blank")
    # Nova keeps it as long as the server lives: what was installed would be powered off without being asked
    assert "os_shutdown_timeout" not in blank


@pytest.mark.parametrize("left", ["nothing", "one that never ran"])
def test_a_server_that_goes_while_it_is_to_go_on_is_not_replaced_by_an_empty_one(
    nova: Nova, compute: NovaCompute, left: str
) -> None:
    if left != "nothing":
        ours(nova, "ERROR", 0, **{"OS-SRV-USG:launched_at": None})
    with pytest.raises(MachineLost):
        ensure(compute, disk=None)
    assert nova.servers == {}


def test_a_new_machine_is_seen_at_once(nova: Nova, tmp_path: Path) -> None:
    compute = NovaCompute(configured(nova, tmp_path, poll=30.0))
    assert compute.state(NAME) is MachineState.ABSENT
    ensure(compute)
    assert compute.state(NAME) is MachineState.RUNNING


def test_only_servers_hold_what_a_server_waits_for(nova: Nova, compute: NovaCompute) -> None:
    """A key pair of the same user may have any name."""
    nova.keypairs["imageflow-admin"] = "ssh-ed25519 AAAA admin"
    nova.quota = 0
    with pytest.raises(OverQuota):
        ensure(compute)


def test_a_snapshot_that_never_comes_to_something_is_given_up(nova: Nova, compute: NovaCompute) -> None:
    ours(nova, "ACTIVE")
    nova.snapshots = False
    with pytest.raises(Refused, match=r"begun the snapshot of .* 5 times, and finished none"):
        compute.checkpoint(NAME, KEY, parent=None, title="t", build_id=BUILD, control=control())
    assert nova.acted == ["createImage"] * 5


def test_a_checkpoint_ends_when_its_build_does(nova: Nova, compute: NovaCompute) -> None:
    ours(nova, "ACTIVE", **{"OS-EXT-STS:task_state": "image_uploading"})
    stopped = control()
    stopped.stop(Cancelled())
    began = time.monotonic()
    with pytest.raises(Cancelled):
        compute.checkpoint(NAME, KEY, parent=None, title="t", build_id=BUILD, control=stopped)
    assert time.monotonic() - began < 5


def test_a_server_that_nova_can_not_look_at_is_not_taken_for_another(nova: Nova, tmp_path: Path) -> None:
    """What Nova says of the servers of a cell that is away."""
    compute = NovaCompute(configured(nova, tmp_path, patience=0.5))
    server = ours(nova, "ACTIVE")
    assert compute.state(NAME) is MachineState.RUNNING
    nova.servers[server["id"]] = {"id": server["id"], "status": "UNKNOWN", "created": server["created"], "links": []}
    time.sleep(0.2)
    with pytest.raises(Unavailable):
        compute.state(NAME)
    assert compute.list() == []


def test_a_console_is_asked_for_once_a_poll(nova: Nova, tmp_path: Path, clock: Clock) -> None:
    """Every look goes to the host that the server runs on, and brings a hundred kilobytes."""
    compute = NovaCompute(configured(nova, tmp_path, poll=60.0))
    ours(nova, "ACTIVE")
    nova.console = "one\n"
    assert [compute.console(NAME), compute.activity(NAME).console] == [b"one\n", 4]
    nova.console = "one\ntwo\n"
    assert compute.console(NAME) == b"one\n"
    assert len([request for request in nova.seen if request.endswith("/action")]) == 1
    clock.ahead += 60.0  # a poll later
    assert compute.console(NAME) == b"one\ntwo\n"


def test_a_console_that_nova_can_not_show_holds_nobody_up(
    nova: Nova, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageflow.compute.nova.servers.BRIEFLY", 0.5)
    compute = NovaCompute(configured(nova, tmp_path, patience=60.0))
    ours(nova, "ACTIVE")
    nova.before = lambda request: (501, None) if request.startswith("POST") and request.endswith("/action") else None
    began = time.monotonic()
    assert compute.console(NAME) == b""
    assert time.monotonic() - began < 10


def test_what_is_refused_is_no_reason_to_wait(nova: Nova, compute: NovaCompute) -> None:
    nova.before = lambda request: (400, None) if request == "POST /v2.1/servers" else None
    began = time.monotonic()
    with pytest.raises(ImageflowError):
        ensure(compute)
    assert time.monotonic() - began < 5
    assert nova.servers == {}
