"""The driver nova, where servers are as operators and half-done requests leave them."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageflow.compute import MachineSpec, MachineState, Source
from imageflow.compute.nova.driver import NovaCompute
from imageflow.compute.nova.layers import PARENT
from imageflow.compute.nova.servers import BLANK, DISK, INSTALLING, MACHINE, STAGE
from imageflow.control import Control
from imageflow.errors import Cancelled, ImageflowError, MachineLost, Refused, TimedOut, Unavailable
from imageflow.model import Build, BuildState, Event
from imageflow.openstack.trouble import OverQuota
from imageflow.persistence import builds
from tests.glance_server import clouds_yaml
from tests.nova_server import PORT, Nova, configured, nova_server
from tests.small.site import Site

BUILD = "0123456789ab"
NAME = f"{BUILD}-main"
SPEC = MachineSpec(memory=256, disk=1)
KEY = "ab" * 32
OTHER = "ba9876543210"
LAYER = {"imageflow:layer": KEY, "imageflow:build_id": OTHER, "imageflow:used": "1.0"}


@pytest.fixture
def nova() -> Iterator[Nova]:
    with nova_server() as server:
        yield server


@pytest.fixture
def compute(nova: Nova, tmp_path: Path) -> NovaCompute:
    return NovaCompute(configured(nova, tmp_path))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is asked again, and a snapshot is looked for, sooner than Nova would like it."""
    monkeypatch.setattr("imageflow.compute.nova.servers._AGAIN", 0.5)
    monkeypatch.setattr("imageflow.compute.nova.snapshots._LATE", 0.3)
    monkeypatch.setattr("imageflow.compute.nova.snapshots._POLL", 0.1)


def control(seconds: float = 15.0) -> Control:
    return Control(time.monotonic() + seconds, build_id=BUILD)


def ours(nova: Nova, status: str, power: int = 1, stage: str = DISK, **more: Any) -> dict[str, Any]:
    """The server of our machine."""
    return nova.server(NAME, status, power, metadata={MACHINE: NAME, STAGE: stage}, **more)


def ensure(compute: NovaCompute, firmware: str = "bios", **more: Any) -> Any:
    more = {"disk": Source("base", "qcow2", KEY), **more}
    spec = dataclasses.replace(SPEC, firmware=firmware)
    return compute.ensure(NAME, spec, build_id=BUILD, control=control(), log=lambda _: None, **more)


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


def test_a_console_is_asked_for_once_a_poll(nova: Nova, tmp_path: Path) -> None:
    """Every look goes to the host that the server runs on, and brings a hundred kilobytes."""
    compute = NovaCompute(configured(nova, tmp_path, poll=60.0))
    ours(nova, "ACTIVE")
    nova.console = "one\n"
    assert [compute.console(NAME), compute.activity(NAME).console] == [b"one\n", 4]
    nova.console = "one\ntwo\n"
    assert compute.console(NAME) == b"one\n"
    assert len([request for request in nova.seen if request.endswith("/action")]) == 1
    compute._looked[NAME] -= 60.0  # a poll later
    assert compute.console(NAME) == b"one\ntwo\n"


def test_a_console_that_nova_can_not_show_holds_nobody_up(
    nova: Nova, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageflow.compute.nova.servers._BRIEFLY", 0.5)
    compute = NovaCompute(configured(nova, tmp_path, patience=60.0))
    ours(nova, "ACTIVE")
    nova.before = lambda request: (501, None) if request.startswith("POST") and request.endswith("/action") else None
    began = time.monotonic()
    assert compute.console(NAME) == b""
    assert time.monotonic() - began < 10


# -- what gets lost between Nova and its hosts ---------------------------------------------------------


@pytest.fixture
def soon(compute: NovaCompute) -> None:
    """Hosts have a second to begin."""
    compute._config = dataclasses.replace(compute._config, build_timeout=1.0)


@pytest.mark.usefixtures("soon")
def test_a_snapshot_that_no_host_hears_of_is_not_waited_for(nova: Nova, compute: NovaCompute) -> None:
    """Nova would keep the server in that state for ever, and refuse everything else."""
    ours(nova, "SHUTOFF", 4)
    nova.heard = False
    with pytest.raises(MachineLost, match="never heard of it"):
        compute.disk(NAME, control())
    assert nova.servers == {} and "queued" not in nova.images


@pytest.mark.usefixtures("soon")
def test_a_start_that_no_host_hears_of_is_not_waited_for(nova: Nova, compute: NovaCompute) -> None:
    ours(nova, "SHUTOFF", 4)
    nova.heard = False
    with pytest.raises(MachineLost, match=r"start a server.*never heard of it"):
        ensure(compute)
    assert nova.servers == {}


@pytest.mark.usefixtures("soon")
def test_a_snapshot_that_a_host_is_late_with_is_waited_for(nova: Nova, compute: NovaCompute) -> None:
    """It makes so many at once, and has others to make first."""
    server = ours(nova, "SHUTOFF", 4)
    nova.heard = False

    def hear(request: str) -> None:
        if request.endswith("/os-instance-actions"):
            server["acted"][-1][1].append({"event": "compute_snapshot_instance"})

    nova.before = hear
    with pytest.raises(TimedOut, match="the build took longer"):
        compute.disk(NAME, control(4.0))
    assert list(nova.servers) == [server["id"]] and "queued" in nova.images


# -- what is somebody else's ---------------------------------------------------------------------------


def test_the_janitor_removes_what_an_ended_build_left_and_nothing_else(nova: Nova, tmp_path: Path) -> None:
    """The key pairs of a person are in the same account, and may be named like ours: builds begin with hex digits, too."""
    cloud = {"openstack__cloud": "c", "openstack__patience": "0", "nova__poll": "0.1", "compute__driver": "nova"}
    with Site(tmp_path, openstack__clouds_yaml=str(clouds_yaml(tmp_path, c=nova)), **cloud) as site:
        ended = Build(BUILD, "web", "boot", BuildState.SUCCEEDED, "a test", BUILD * 5, str(uuid.uuid4()), time.time())
        site.service.database.transact(lambda conn: builds.insert(conn, ended, claim=False))
        theirs = f"{OTHER}-main"
        nova.server(NAME, metadata={MACHINE: NAME})
        nova.server(theirs, metadata={MACHINE: theirs})  # of another imageflow
        nova.server(f"{BUILD}-mine")  # of a person
        persons = [f"imageflow-{BUILD[:1]}", f"imageflow-{BUILD[:11]}", "imageflow-admin", BUILD]
        nova.keypairs = dict.fromkeys([*persons, f"imageflow-{NAME}", f"imageflow-{theirs}"], "ssh-ed25519 AAAA")
        site.service.reap()
        assert sorted(server["name"] for server in nova.servers.values()) == sorted([theirs, f"{BUILD}-mine"])
        assert sorted(nova.keypairs) == sorted([*persons, f"imageflow-{theirs}"])


UEFI = {"hw_firmware_type": "uefi", "hw_machine_type": "q35"}


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
@pytest.mark.parametrize("said", [{}, UEFI], ids=["bios before", "uefi before"])
def test_a_base_that_was_taken_in_starts_by_the_firmware_of_each_machine(
    nova: Nova, compute: NovaCompute, firmware: str, said: dict[str, str]
) -> None:
    nova.add("layer", name=f"imageflow-layer-{KEY[:12]}", **LAYER, **said)
    ensure(compute, firmware, disk=Source("layer", "qcow2", KEY))
    assert {name: nova.images["layer"].get(name) for name in UEFI} == (
        UEFI if firmware == "uefi" else dict.fromkeys(UEFI)
    )


def test_a_snapshot_starts_as_its_server_did(nova: Nova, compute: NovaCompute) -> None:
    nova.add("layer", name=f"imageflow-layer-{KEY[:12]}", **LAYER, **UEFI, **{PARENT: ""})
    ensure(compute, disk=Source("layer", "qcow2", KEY))
    assert {name: nova.images["layer"].get(name) for name in UEFI} == UEFI


def test_a_version_that_a_build_stands_on_is_not_changed(nova: Nova, compute: NovaCompute) -> None:
    version = dict(nova.add("version", name="debian", **{"imageflow:kind": "version", "imageflow:build_id": OTHER}))
    ensure(compute, "uefi", disk=Source("version", "qcow2", KEY))
    assert nova.images["version"] == version
    assert not [request for request in nova.seen if request.startswith("PATCH")]


def test_a_layer_that_can_not_be_removed_keeps_no_other(nova: Nova, compute: NovaCompute) -> None:
    name = f"imageflow-layer-{KEY[:12]}"
    nova.add("half", name=name, protected=True, status="queued", **LAYER)
    nova.add("old", name=name, **LAYER)
    assert [layer.key for layer in compute.layers.collect(0.0, 0.0, lambda _: False)] == [KEY]
    assert "old" not in nova.images and "half" in nova.images


# -- floating addresses ------------------------------------------------------------------------------


def test_a_floating_address_whose_answer_got_lost_is_one(nova: Nova, tmp_path: Path) -> None:
    compute = NovaCompute(configured(nova, tmp_path, floating_network="outside"))
    lost = []

    def lose(request: str) -> tuple[int, Any] | None:
        if request.startswith("POST /v2.0/floatingips") and not lost:
            lost.append(request)
            (server,) = nova.servers
            nova.floating.append({"id": "floating-0", "port_id": PORT + server, "description": NAME})
            return 504, None
        return None

    nova.before = lose
    machine = ensure(compute)
    assert len(lost) == 1
    assert [entry["port_id"] for entry in nova.floating] == [PORT + machine.process]


def test_a_floating_address_follows_the_machine_to_its_next_server(nova: Nova, tmp_path: Path) -> None:
    compute = NovaCompute(configured(nova, tmp_path, floating_network="outside"))
    first = ensure(compute)
    nova.servers.clear()
    for entry in nova.floating:
        entry["port_id"] = None
    second = ensure(compute)
    assert first.process != second.process
    assert [entry["port_id"] for entry in nova.floating] == [PORT + second.process]
    nova.seen.clear()
    ensure(compute)
    assert not [request for request in nova.seen if request.startswith(("POST /v2.0", "PUT /v2.0"))]


def test_what_is_refused_is_no_reason_to_wait(nova: Nova, compute: NovaCompute) -> None:
    nova.before = lambda request: (400, None) if request == "POST /v2.1/servers" else None
    began = time.monotonic()
    with pytest.raises(ImageflowError):
        ensure(compute)
    assert time.monotonic() - began < 5
    assert nova.servers == {}
